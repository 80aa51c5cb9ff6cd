# Made by scripts/write_stubs.py from the cards; do not edit.
from .auto import (
    AutoModelForTimeSeriesClassification as AutoModelForTimeSeriesClassification,
)
from .data import (
    load_corpus as load_corpus,
)
from .hub import (
    build_model_card as build_model_card,
    convert_checkpoint as convert_checkpoint,
    push_to_hub as push_to_hub,
)
from .inference import (
    StreamingEncoder as StreamingEncoder,
    dequantize_embeddings as dequantize_embeddings,
    quantize_embeddings as quantize_embeddings,
)
from .inference.clustering import (
    cluster as cluster,
)
from .inference.detection import (
    detect as detect,
)
from .inference.imputation import (
    impute as impute,
)
from .inference.prediction import (
    predict as predict,
)
from .inference.searching import (
    search as search,
)
from .modeling.configuration_crosstimenet import (
    CrossTimeNetConfig as CrossTimeNetConfig,
)
from .modeling.configuration_gpht import (
    GPHTConfig as GPHTConfig,
)
from .modeling.configuration_mug import (
    MUGConfig as MUGConfig,
)
from .modeling.configuration_shapenet import (
    ShapeNetConfig as ShapeNetConfig,
)
from .modeling.configuration_simmtm import (
    SimMTMConfig as SimMTMConfig,
)
from .modeling.configuration_timedart import (
    TimeDARTConfig as TimeDARTConfig,
)
from .modeling.configuration_timedrl import (
    TimeDRLConfig as TimeDRLConfig,
)
from .modeling.configuration_timemae import (
    TimeMAEConfig as TimeMAEConfig,
)
from .modeling.configuration_ts2vec import (
    TS2VecConfig as TS2VecConfig,
)
from .modeling.configuration_tst import (
    TSTConfig as TSTConfig,
)
from .modeling.modeling_crosstimenet import (
    CrossTimeNetForPreTraining as CrossTimeNetForPreTraining,
    CrossTimeNetForTimeSeriesClassification as CrossTimeNetForTimeSeriesClassification,
    CrossTimeNetForTimeSeriesPrediction as CrossTimeNetForTimeSeriesPrediction,
    CrossTimeNetModel as CrossTimeNetModel,
)
from .modeling.modeling_gpht import (
    GPHTForPreTraining as GPHTForPreTraining,
    GPHTForTimeSeriesClassification as GPHTForTimeSeriesClassification,
    GPHTForTimeSeriesPrediction as GPHTForTimeSeriesPrediction,
    GPHTModel as GPHTModel,
)
from .modeling.modeling_mug import (
    MUGForPreTraining as MUGForPreTraining,
    MUGForTimeSeriesClassification as MUGForTimeSeriesClassification,
    MUGForTimeSeriesPrediction as MUGForTimeSeriesPrediction,
    MUGModel as MUGModel,
)
from .modeling.modeling_shapenet import (
    ShapeNetForPreTraining as ShapeNetForPreTraining,
    ShapeNetForTimeSeriesClassification as ShapeNetForTimeSeriesClassification,
    ShapeNetForTimeSeriesPrediction as ShapeNetForTimeSeriesPrediction,
    ShapeNetModel as ShapeNetModel,
)
from .modeling.modeling_simmtm import (
    SimMTMForPreTraining as SimMTMForPreTraining,
    SimMTMForTimeSeriesClassification as SimMTMForTimeSeriesClassification,
    SimMTMForTimeSeriesPrediction as SimMTMForTimeSeriesPrediction,
    SimMTMModel as SimMTMModel,
)
from .modeling.modeling_timedart import (
    TimeDARTForPreTraining as TimeDARTForPreTraining,
    TimeDARTForTimeSeriesClassification as TimeDARTForTimeSeriesClassification,
    TimeDARTForTimeSeriesPrediction as TimeDARTForTimeSeriesPrediction,
    TimeDARTModel as TimeDARTModel,
)
from .modeling.modeling_timedrl import (
    TimeDRLForPreTraining as TimeDRLForPreTraining,
    TimeDRLForTimeSeriesClassification as TimeDRLForTimeSeriesClassification,
    TimeDRLForTimeSeriesPrediction as TimeDRLForTimeSeriesPrediction,
    TimeDRLModel as TimeDRLModel,
)
from .modeling.modeling_timemae import (
    TimeMAEForPreTraining as TimeMAEForPreTraining,
    TimeMAEForTimeSeriesClassification as TimeMAEForTimeSeriesClassification,
    TimeMAEForTimeSeriesPrediction as TimeMAEForTimeSeriesPrediction,
    TimeMAEModel as TimeMAEModel,
)
from .modeling.modeling_ts2vec import (
    TS2VecForPreTraining as TS2VecForPreTraining,
    TS2VecForTimeSeriesClassification as TS2VecForTimeSeriesClassification,
    TS2VecForTimeSeriesPrediction as TS2VecForTimeSeriesPrediction,
    TS2VecModel as TS2VecModel,
)
from .modeling.modeling_tst import (
    TSTForPreTraining as TSTForPreTraining,
    TSTForTimeSeriesClassification as TSTForTimeSeriesClassification,
    TSTForTimeSeriesPrediction as TSTForTimeSeriesPrediction,
    TSTModel as TSTModel,
)
from .registry import (
    METHODS as METHODS,
    Method as Method,
    Paper as Paper,
    get_method as get_method,
    list_methods as list_methods,
    list_models as list_models,
)
from .tokenization.codec_crosstimenet import (
    CrossTimeNetCodec as CrossTimeNetCodec,
)
from .tokenization.configuration_crosstimenet_codec import (
    CrossTimeNetCodecConfig as CrossTimeNetCodecConfig,
)
from .tokenization.feature_extraction_time_series import (
    TimeSeriesFeatureExtractor as TimeSeriesFeatureExtractor,
)
from .tokenization.tokenization_crosstimenet import (
    CrossTimeNetTokenizer as CrossTimeNetTokenizer,
)
from .training import (
    finetune as finetune,
    pretrain as pretrain,
)
from .training.protocols import (
    evaluate as evaluate,
)

__version__: str
