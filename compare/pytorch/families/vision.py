"""Image classifiers: timm's, small, and a few of their own."""

import torch

from . import BOTH, model

BATCH = {'x': {0: 'batch'}}


def timm_model(name, size=64, batch=3, **options):
    import timm

    options = {'num_classes': 7, **options}
    return timm.create_model(name, pretrained=False, **options), {'x': torch.randn(batch, 3, size, size)}


def register(name, arch=None, batch_norm=False, exporters=BOTH, **options):
    model(name, dynamic=BATCH, batch_norm=batch_norm, exporters=exporters)(lambda: timm_model(arch or name, **options))


register('resnet18', batch_norm=True)
register('mobilenetv3', 'mobilenetv3_small_050', batch_norm=True)
register('efficientnet', 'tf_efficientnet_lite0')
register('densenet', 'densenet121', batch_norm=True, growth_rate=8, block_config=(2, 2, 2, 2))
register('regnet', 'regnetx_002', batch_norm=True)
register('vit', 'vit_tiny_patch16_224', img_size=64, depth=2, embed_dim=48, num_heads=3)
register('deit', 'deit_tiny_distilled_patch16_224', img_size=64, depth=2, embed_dim=48, num_heads=3)
register('convnext', 'convnext_atto', depths=(1, 1, 2, 1), dims=(16, 32, 48, 64))
register('swin', 'swin_tiny_patch4_window7_224', img_size=56, window_size=7, embed_dim=24, depths=(2, 2), num_heads=(2, 4), size=56)
register('mlp-mixer', 'mixer_s32_224', img_size=64)
register('ghostnet', 'ghostnet_050')
register('hardcorenas', 'hardcorenas_a')
register('inception', 'inception_v3', size=96)
register('cait', 'cait_xxs24_224', img_size=64, embed_dim=48, depth=2, num_heads=3)
register('xcit', 'xcit_nano_12_p16_224', img_size=64, embed_dim=48, depth=2, num_heads=3)
register('poolformer', 'poolformer_s12', layers=(1, 1, 1, 1), embed_dims=(16, 24, 32, 48))
register('nfnet', 'nf_resnet26')
register('resnest', 'resnest14d')
register('mobilenetv2', 'mobilenetv2_035')
register('beit', 'beit_base_patch16_224', exporters=('legacy',), img_size=64, depth=2, embed_dim=48, num_heads=3)
register('botnet', 'botnet26t_256', size=256, batch=1)
register('coat', 'coat_lite_tiny', img_size=64, embed_dims=(16, 32, 48, 64), serial_depths=(1, 1, 1, 1))
register('convit', 'convit_tiny', img_size=64, depth=3, embed_dim=48, num_heads=3, local_up_to_layer=2)
register('convnextv2', 'convnextv2_atto', depths=(1, 1, 1, 1), dims=(16, 32, 48, 64))
register('crossvit', 'crossvit_tiny_240', size=240, batch=2)
register('cspdarknet', 'cs3darknet_focus_s')
register('davit', 'davit_tiny', embed_dims=(16, 32, 48, 64), num_heads=(1, 2, 3, 4), depths=(1, 1, 1, 1))
register('dla', 'dla34')
register('efficientnetv2', 'tf_efficientnetv2_b0')
register('efficientvit', 'efficientvit_b0')
register('hiera', 'hiera_tiny_224', exporters=('legacy',), img_size=64, embed_dim=24, stages=(1, 1, 1, 1))
register('levit', 'levit_128s', exporters=('dynamo',), img_size=64)
register('mobilenetv4', 'mobilenetv4_conv_small_050')
