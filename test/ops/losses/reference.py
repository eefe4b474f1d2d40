"""Values and gradients of losses by PyTorch, in float64: python reference.py writes losses.json."""
import torch, json
import torch.nn.functional as F
torch.manual_seed(7)
D=torch.float64
out={}
def rec(name, inputs, fn, **extra):
    xs=[torch.tensor(i,dtype=D,requires_grad=True) if not isinstance(i,torch.Tensor) else i.clone().to(D).requires_grad_() for i in inputs]
    l=fn(*xs); l.backward()
    r=lambda t:[round(v,7) for v in t.detach().flatten().tolist()]
    out[name]=dict(loss=l.item(), outputs=[dict(dims=list(x.shape),values=r(x),gradient=[float('%.9g'%v) for v in x.grad.flatten().tolist()]) for x in xs], **extra)
def rnd(*s): return torch.round(torch.randn(*s)*1e4)/1e4
x=rnd(4,3); y=torch.tensor([0,2,1,2])
def focal(x,gamma=2):
    lp=F.log_softmax(x,1); l=F.nll_loss(lp,y,reduction='none'); return ((1-torch.exp(-l))**gamma*l).mean()
rec('focal',[x],focal,target=dict(values=y.tolist(),dims=[4],dtype='int64'))
p=torch.tensor([[1,0,1],[0,1,0.],[1,1,0],[0,0,1]],dtype=D)
def sfocal(x,alpha=.25,gamma=2):
    pr=torch.sigmoid(x); ce=F.binary_cross_entropy_with_logits(x,p,reduction='none'); pt=pr*p+(1-pr)*(1-p)
    return ((alpha*p+(1-alpha)*(1-p))*ce*(1-pt)**gamma).mean()
T=lambda t:dict(values=[round(v,7) for v in t.flatten().tolist()],dims=list(t.shape),dtype='float32')
rec('sigmoid-focal',[rnd(4,3)],sfocal,target=T(p))
t=rnd(4,3).to(D)
rec('kl of scores',[rnd(4,3)],lambda x:F.kl_div(F.log_softmax(x/2,1),F.softmax(t/2,1),reduction='batchmean')*4,target=T(t))
q=torch.tensor([[.5,.5,0],[1,0,0],[.2,.3,.5],[.1,.1,.8]],dtype=D)
rec('kl of probabilities',[rnd(4,3)],lambda x:F.kl_div(F.log_softmax(x,1),q,reduction='batchmean'),target=T(q))
rec('cosine',[rnd(4,3)],lambda x:F.cosine_embedding_loss(x,t,torch.ones(4,dtype=D)),target=T(t))
m=(torch.rand(2,2,3,3)>.5).to(D)
def dice(x):
    s=torch.sigmoid(x); a=(2,3); return (1-(2*(s*m).sum(a)+1)/(s.sum(a)+m.sum(a)+1)).mean()
rec('dice',[rnd(2,2,3,3)],dice,target=T(m))
rec('triplet',[rnd(4,3),rnd(4,3),rnd(4,3)],lambda a,b,c:F.triplet_margin_loss(a,b,c,margin=1))
def clip(a,b):
    l=F.normalize(a)@F.normalize(b).T/0.2; k=torch.arange(4); return (F.cross_entropy(l,k)+F.cross_entropy(l.T,k))/2
rec('contrastive',[rnd(4,3),rnd(4,3)],clip)
lab=torch.tensor([[1,2,2],[3,1,0],[2,0,0],[0,0,0]]); n=torch.tensor([3,2,1,0])
def ctc(lengths):
    return lambda x:F.ctc_loss(F.log_softmax(x,2).transpose(0,1),lab,torch.tensor(lengths),n,blank=0)
rec('ctc',[rnd(4,6,4)],ctc([6]*4),target=dict(values=lab.flatten().tolist(),dims=[4,3],dtype='int64'))
rec('ctc with lengths',[rnd(4,6,4)],ctc([6,3,5,2]),target=dict(values=lab.flatten().tolist(),dims=[4,3],dtype='int64'),named=dict(lengths=[6,3,5,2]))
mask=torch.tensor([[1,1,0],[1,0,0]]); yt=torch.tensor([[0,2,1],[1,0,0]])
rec('masked tokens',[rnd(2,3,4)],lambda x:(F.cross_entropy(x.reshape(-1,4),yt.flatten(),reduction='none')*mask.flatten()).sum()/mask.sum(),target=dict(values=yt.flatten().tolist(),dims=[2,3],dtype='int64'),named=dict(mask=mask.flatten().tolist(),dims=[2,3]))
h=rnd(2,3,4).to(D)
rec('masked values',[rnd(2,3,4)],lambda x:(((x-h)**2)*mask[:,:,None]).sum()/(mask.sum()*4),target=T(h),named=dict(mask=mask.flatten().tolist(),dims=[2,3]))
json.dump(out,open('losses.json','w'),indent=None,separators=(',',':'))
