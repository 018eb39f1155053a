"""The paper's recipe: ViT-L/16 from ImageNet with two MLP heads (arXiv 2405.06814).

    python -m dtvit_jax.main --config configs/vit_l.py --config.data.source=SRC

L/32: --config.model.name=vit_l32 --config.init_from=torchvision/vit_l_32

No result is claimed: a full run has not been measured yet. The paper reports an accuracy of 0.9988
on slices of subjects that it also trained on; this recipe splits by subject.
The paper used one GPU with 24 GB; --config.accumulation fits the step into less memory.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the config with every field; other recipes change some of these values."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # the published code sets none

    config.data = data = ml_collections.ConfigDict()
    data.source = ""  # folder to build the shards from; empty: data.dir has them already
    data.dir = "data"  # folder of the shards, or to build them in
    # Key file for pseudonyms; empty: the one in the user's config folder; 'public': for phantoms.
    data.key = ""
    data.size = 256  # section 2.2.3, published code: resize to 256 ...
    data.split = "subject"  # or 'slice', as the paper: test subjects are then in training too
    data.folds = 0  # 0: 80/10/10, as the paper; K: fold `data.fold` of K is the test side
    data.fold = 0
    data.seed = 0  # of the split; the published code sets none
    # Section 2.2.3: Deep x1, Lobar x3, Subtentorial x12, normal x3; or 'weights' (of classes, in
    # the loss), or 'none'.
    data.balance = "replicate"

    config.model = model = ml_collections.ConfigDict()
    model.name = "vit_l16"  # Table 2: patch 16, width 1024, 16 heads, MLP 4096
    model.image_size = 224  # section 2.2.3: ... and centre crop to 224
    model.channels = 3  # as the ImageNet weights; each shows one of config.windows
    model.head = "mlp"  # section 3.2: MLP-based decoders
    model.head_dropout = 0.1  # published code
    model.location_classes = 3  # Table 1; the published code has 4, with 'normal'
    model.pooling = "cls"  # section 3.1: the class token
    model.gelu = "exact"  # as the weights; set from config.init_from if that records it
    model.norm_epsilon = 1e-6
    model.dropout = 0.0  # in the encoder, as the ImageNet model
    model.stochastic_depth = 0.0
    model.tokens = "all"  # or 'tissue': only patches with tissue (ViT; docs/data_tissue.md)
    model.attention = "auto"  # XLA's; or 'xla', or 'cudnn' (docs/training_speed.md)
    model.remat = False  # recomputes blocks in the backward pass: less memory, more time
    model.scan = False  # compiles one block for all: the same numbers, faster compilation

    config.tissue = tissue = ml_collections.ConfigDict()
    tissue.threshold = 10.0  # gray values above it are tissue (or head), in the transformed slice
    tissue.margin = 0  # pixels; a patch this close to tissue is kept too

    config.augment = augment = ml_collections.ConfigDict()
    augment.rotation = 15.0  # degrees, section 2.2.3
    augment.sharpness = 2.0  # factor, section 2.2.3
    augment.sharpness_probability = 0.5  # published code
    augment.flip_probability = 0.0  # left-right; not in the paper
    augment.zoom = 0.0  # scale is 1 plus or minus up to this; not in the paper
    augment.shift = 0.0  # up to this fraction of the side; not in the paper
    augment.intensity = 0.0  # gain is 1 plus or minus up to this; not in the paper
    augment.noise = 0.0  # standard deviation, fraction of the gray range; not in the paper
    augment.mixup = 0.0  # both parameters of the share's beta distribution; not in the paper
    config.crop = "centre"  # or 'head': its box, resized to image_size; not in the paper
    config.windows = ((0, 255),) * 3  # gray values of each channel's 0 and 1: the whole range
    config.mean = (0.485, 0.456, 0.406)  # section 2.2.3; the published code has 0.5
    config.std = (0.229, 0.224, 0.225)

    config.init_from = "torchvision/vit_l_16"  # section 3.3; or a file, a run, or 'scratch'
    config.init_heads = False  # also takes both heads from init_from, a run
    config.frozen_blocks = 0  # first blocks of a ViT that are not trained; -1: the whole encoder

    config.loss = loss = ml_collections.ConfigDict()
    loss.hemorrhage = 0.5  # Eq. 5
    loss.location = 0.5
    config.label_smoothing = 0.0  # fraction of the label spread over all classes, in training

    config.batch_size = 32  # section 4.1
    config.accumulation = 1  # parts that a batch is computed in; more parts, less memory
    config.eval_batch_size = 32  # section 4.1
    config.num_epochs = 10  # section 4.1; give this or num_steps, and 0 for the other
    config.num_steps = 0
    config.eval_every_epochs = 1.0  # between validations, which also save; Figure 5: one an epoch

    config.learning_rate = 2e-5  # section 4.1
    config.schedule = "constant"  # published code; or 'cosine'
    config.warmup = 0.0  # fraction of all steps; the published code has none
    config.weight_decay = 0.01  # section 4.1; on kernels only
    config.clip_norm = 0.0  # largest gradient norm; 0: no clipping, as published
    config.layer_decay = 1.0  # factor of the rate for each layer towards a ViT's input
    config.ema_decay = 0.0  # decay of averaged weights, which are then evaluated; 0: none

    config.aggregation = aggregation = ml_collections.ConfigDict()
    aggregation.method = "mean"  # a subject's score from its slices; or 'noisy_or', or 'auto'
    aggregation.k = 3  # highest slices that count, 0: all; 'auto' fits both on validation
    config.calibration = "temperature"  # fitted on validation: or 'isotonic', or 'none'

    config.best = "loss"  # validation metric that selects the checkpoint
    config.early_stopping = 0  # validations without improvement before it stops; 0: never stops
    config.keep = 2  # last checkpoints kept, besides the best; a damaged one has one before it
    config.log_every_steps = 20  # between fetches of the losses: checked for nan and written
    config.profile = False  # writes a trace of a few steps, for XProf
    config.dtype = "auto"  # bfloat16 where the device has it, else float32; state is float32
    config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1})  # -1: all devices
    return config
