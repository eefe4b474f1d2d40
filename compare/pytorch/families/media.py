"""Hugging Face's models of images, sound, series and pages, small."""

import torch

from . import model
from .text import SMALL, Wrapped, ids


def images(name, head, config, size=32, pick=('logits',), loss='cross-entropy', dynamic=None, **settings):
    def build():
        import transformers
        c = getattr(transformers, config)(**settings)
        return Wrapped(getattr(transformers, head)(c), ['pixel_values'], pick), {'x': torch.randn(2, 3, size, size)}
    model(name, loss=loss, dynamic={'x': {0: 'batch'}} if dynamic is None else dynamic)(build)


images('segformer', 'SegformerForSemanticSegmentation', 'SegformerConfig', 64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=16, num_labels=5)
images('dinov2', 'Dinov2ForImageClassification', 'Dinov2Config', 28, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, num_labels=3)
images('yolos', 'YolosForObjectDetection', 'YolosConfig', 32, pick=('logits', 'pred_boxes'), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=[32, 32], patch_size=8, num_detection_tokens=5)
images('dpt', 'DPTForDepthEstimation', 'DPTConfig', 32, pick=('predicted_depth',), loss='mse', hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=32, patch_size=8, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, is_hybrid=False)


@model('detr', dynamic={'x': {0: 'batch'}})
def detr():
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
    c = DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type='basic', out_features=['stage2']),
                   d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=4, num_labels=3)
    return Wrapped(DetrForObjectDetection(c), ['pixel_values'], ('logits', 'pred_boxes')), {'x': torch.randn(2, 3, 32, 32)}


@model('hubert', dynamic={'x': {0: 'batch'}})
def hubert():
    from transformers import HubertConfig, HubertForSequenceClassification
    c = HubertConfig(vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8), conv_kernel=(5, 3), conv_stride=(3, 2), num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, num_labels=3, classifier_proj_size=8)
    return Wrapped(HubertForSequenceClassification(c), ['input_values'], ('logits',)), {'x': torch.randn(2, 60)}


@model('audio-spectrogram-transformer', dynamic={'x': {0: 'batch'}})
def ast():
    from transformers import ASTConfig, ASTForAudioClassification
    c = ASTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_length=32, num_mel_bins=16, patch_size=8, time_stride=8, frequency_stride=8, num_labels=3)
    return Wrapped(ASTForAudioClassification(c), ['input_values'], ('logits',)), {'x': torch.randn(2, 32, 16)}


@model('wav2vec2-conformer', dynamic={'x': {0: 'batch'}})
def conformer():
    from transformers import Wav2Vec2ConformerConfig, Wav2Vec2ConformerForCTC
    c = Wav2Vec2ConformerConfig(vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8), conv_kernel=(5, 3), conv_stride=(3, 2), num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, conv_depthwise_kernel_size=3, position_embeddings_type='relative', max_source_positions=32)
    return Wrapped(Wav2Vec2ConformerForCTC(c), ['input_values'], ('logits',)), {'x': torch.randn(2, 60)}


@model('patchtst', loss='mse', dynamic={'x': {0: 'batch'}})
def patchtst():
    from transformers import PatchTSTConfig, PatchTSTForPrediction
    c = PatchTSTConfig(num_input_channels=2, context_length=16, patch_length=4, patch_stride=4, prediction_length=4, d_model=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32, num_parallel_samples=1, loss='mse')
    return Wrapped(PatchTSTForPrediction(c), ['past_values'], ('prediction_outputs',)), {'x': torch.randn(2, 16, 2)}


@model('layoutlm', dynamic={'input_ids': {0: 'batch'}, 'bbox': {0: 'batch'}})
def layoutlm():
    from transformers import LayoutLMConfig, LayoutLMForTokenClassification
    c = LayoutLMConfig(**SMALL, num_labels=3, max_2d_position_embeddings=20)
    return Wrapped(LayoutLMForTokenClassification(c), ['input_ids', 'bbox'], ('logits',)), {'input_ids': ids(), 'bbox': torch.sort(torch.randint(0, 19, (2, 6, 4)), -1).values[..., [0, 1, 2, 3]]}


@model('perceiver', dynamic={'input_ids': {0: 'batch'}})
def perceiver():
    from transformers import PerceiverConfig, PerceiverForSequenceClassification
    c = PerceiverConfig(num_latents=4, d_latents=16, d_model=16, num_blocks=1, num_self_attends_per_block=1, num_self_attention_heads=2, num_cross_attention_heads=2, vocab_size=40, max_position_embeddings=6, num_labels=3)
    return Wrapped(PerceiverForSequenceClassification(c), ['inputs'], ('logits',)), {'input_ids': ids()}


@model('image-captions', dynamic={})
def captions():
    from transformers import ViTConfig, GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel
    e = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8)
    d = GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=32, use_cache=False)
    m = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_encoder_decoder_configs(e, d))
    return Wrapped(m, ['pixel_values', 'decoder_input_ids'], ('logits',)), {'pixel_values': torch.randn(2, 3, 16, 16), 'decoder_input_ids': ids()}

