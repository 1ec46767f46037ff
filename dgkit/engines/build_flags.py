"""The options of ``dgkit build-engines`` that replace settings of an engine recipe."""

from typing import Annotated

from pydantic import Field

from dgkit.config import Config, Metavar


class BuildFlags(Config):
    """Values of the options; None leaves the setting of the recipe."""

    engine: Annotated[str | None, Metavar("ENGINE")] = Field(
        None, description="ort (default), openvino, compile or trt"
    )
    dtype: Annotated[str | None, Metavar("D")] = Field(None, description="fp32 (default), bf16, fp16, int8 or fp8")
    batch: Annotated[str | None, Metavar("MIN,OPT,MAX")] = Field(
        None, description="Samples per call: fewest, usual, most; default: 1,8,64"
    )
    device: Annotated[str | None, Metavar("D")] = Field(None, description="auto (default), cpu, cuda or cuda:N")
    refit: bool = Field(False, description="TensorRT: engines that take new weights in seconds, on a GPU")
