"""Configuration: frozen, typed, strict; one module per concern, documented under each field."""

from .cluster import ClusterConfig, option_name
from .engine import EngineConfig
from .model import ModelConfig
from .recipe import LAYERWISE, BatchConfig, OptimConfig, TrainConfig
from .run import RunConfig, load_config, place_keys, slug
from .schema import UsageError, nearest
from .task import TaskConfig
from .tracking import TrackingConfig

__all__ = [
    "RunConfig",
    "load_config",
    "TaskConfig",
    "ModelConfig",
    "BatchConfig",
    "OptimConfig",
    "LAYERWISE",
    "TrainConfig",
    "EngineConfig",
    "ClusterConfig",
    "option_name",
    "TrackingConfig",
    "UsageError",
    "nearest",
    "place_keys",
    "slug",
]
