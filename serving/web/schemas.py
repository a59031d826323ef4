"""What the API takes and gives, for its checks and for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, RootModel

from serving.web.problems import MIMETYPE, Kind, Problem

MAX_VIEWS = 8


def _with_example(example: dict[str, object]) -> ConfigDict:
    """A model's configuration with an example for the OpenAPI document."""
    return cast(ConfigDict, {"openapi_extra": {"example": example}})  # flask-openapi3's own key


def form(description: str, **several: int) -> dict[str, Any]:
    """The OpenAPI schema of a form with a photo in its part `file`, or with `several`: an array's keywords."""
    file: dict[str, Any] = {"type": "string", "format": "binary"}
    if several:
        file = {"type": "array", "items": file} | several
    return {"type": "object", "properties": {"file": file | {"description": description}}, "required": ["file"]}


def body(schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What OpenAPI says of a path's body, by content type."""
    content = {kind: {"schema": schema} for kind, schema in schemas.items()}
    return {"requestBody": {"content": content, "required": True}}


class UrlBody(BaseModel):
    """Where a photo is."""

    model_config = _with_example({"url": "https://example.com/car.jpg"})

    url: str = Field(description="A public http(s) URL of a photo")


class VerdictAnswer(BaseModel):
    """The verdict on one photo. It was reached before `p_clean` and `threshold` were rounded to 6 decimals."""

    model_config = _with_example(
        {"label": "clean", "p_clean": 0.991204, "threshold": 0.93, "model": "resnet50-4f1d0c2b9a77"}
    )

    label: Literal["clean", "dirty", "uncertain"]
    p_clean: float = Field(ge=0, le=1, description="Calibrated probability that the car is clean")
    threshold: float = Field(ge=0, le=1, description="p_clean at or above this is clean")
    model: str = Field(description="The model that answered: its architecture and the start of its sha256")
    audit: bool | None = Field(None, description="Sampled for people to judge; absent where AUDIT_SHARE=0")


class ExplainQuery(BaseModel):
    """How a verdict is explained."""

    method: Literal["occlusion", "cam"] | None = Field(
        None, description="By default cam where it is as fine as occlusion, which is 14 x 14; not every model has cam"
    )


class Explanation(BaseModel):
    """Where a verdict comes from; not whether the reason is right."""

    label: Literal["clean", "dirty", "uncertain", "unusable"]
    p_clean: float = Field(ge=0, le=1)
    model: str
    method: Literal["occlusion", "cam"]
    grid: list[list[float]] = Field(
        description="Rows from the top. occlusion: how much the logit of clean falls without the cell; cam: the cell's "
        "own logit of clean, and their mean is the logit"
    )
    overlay: str = Field(description="The photo, a square as the network sees it, under the grid: a PNG as a data: URI")
    caution: str


class UnusableAnswer(BaseModel):
    """The photo shows no car, or too little of it, so there is no verdict on it."""

    model_config = _with_example({"label": "unusable", "reason": "no_car", "model": "resnet50-4f1d0c2b9a77"})

    label: Literal["unusable"]
    reason: Literal["too_small", "too_dark", "too_blurred", "no_car", "copy"] = Field(
        description="The first that applies; too_small: by its pixels; no_car: not the exterior of a car; copy: of "
        "another view of the car"
    )
    model: str = Field(description="The model that answered")


class CarUrls(BaseModel):
    """Public http(s) URLs of the photos of one car."""

    urls: list[str] = Field(min_length=1, max_length=MAX_VIEWS, examples=[["https://example.com/front.jpg"]])


class PhotoAnswer(RootModel[VerdictAnswer | UnusableAnswer]):
    """The verdict on one photo, or why there is none."""


class ProblemAnswer(BaseModel):
    """An error, as RFC 9457 has it. Compare `type`; read `detail`."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = None


class Answers(RootModel[list[VerdictAnswer | UnusableAnswer | ProblemAnswer]]):
    """For each photo, in order, its verdict or the problem with it."""


class CarAnswer(BaseModel):
    """The verdict on one car: what its dirtiest view says. A view that cannot be used is told, and not counted."""

    model_config = _with_example(
        {
            "label": "clean", "p_clean": 0.98, "threshold": 0.91, "certified": True, "model": "resnet50-4f1d0c2b9a77",
            "views": [
                {"label": "clean", "p_clean": 0.98, "threshold": 0.93, "model": "resnet50-4f1d0c2b9a77"},
                {"label": "unusable", "reason": "no_car", "model": "resnet50-4f1d0c2b9a77"},
            ],
        }
    )  # fmt: skip

    label: Literal["clean", "dirty", "uncertain", "unusable"]
    reason: Literal["too_few_views"] | None = Field(None, description="Of an unusable car, which has no p_clean")
    p_clean: float | None = Field(None, ge=0, le=1, description="The least of its views")
    threshold: float | None = Field(None, description="p_clean at or above this is clean, for so many views")
    certified: bool = Field(description="Whether the promise about cars is proven for so many views")
    model: str
    views: list[VerdictAnswer | UnusableAnswer | ProblemAnswer] = Field(
        description="In the order of the photos or URLs"
    )


class Health(BaseModel):
    """A sign of life."""

    status: Literal["ok"] = "ok"


class ModelAnswer(BaseModel):
    """What is in service."""

    model_config = ConfigDict(protected_namespaces=())

    model: str
    version: str = Field(description="As in every verdict")
    precision: str
    provider: str = Field(description="What runs the model: CUDAExecutionProvider or CPUExecutionProvider")
    image_size: int
    resize: str
    T_clean: float
    T_low: float | None
    override: dict[str, float] = Field(description="Thresholds replaced by the environment; empty for the model's own")
    threshold_json: dict[str, object] = Field(description="The whole decision, as the threshold stage wrote it")
    refuses: bool = Field(description="Whether photos beyond a limit are answered with `unusable`")
    max_distance: float | None = Field(description="From the train photos; farther is no_car")
    dark_below: float = Field(description="Mean brightness, 0 to 1; below is too_dark")
    sharpness_below: float = Field(description="Edge energy relative to contrast; below is too_blurred")
    small_below: float = Field(description="Pixels of the shorter side; below is too_small")
    certified: bool = Field(description="Whether the precision of clean verdicts at this T_clean is proven")
    model_path: str
    threshold_path: str | None = Field(description="The file that replaces the model's own threshold, if any")
    model_sha256: str
    threshold_sha256: str
    data_version: str
    trained_on_drawings: bool = Field(description="From the sample photos: what it says of real ones means nothing")
    checkpoint_sha256: str
    git_commit: str | None
    reload_refused: str | None = Field(description="Why the last reload kept the old model, if it did")


def problems(*statuses: int) -> dict[int, dict[str, Any]]:
    """OpenAPI responses for the problems with these statuses."""
    schema = {"$ref": f"#/components/schemas/{ProblemAnswer.__name__}"}
    responses = {}
    for status in statuses:
        kinds = [kind for kind in Kind if kind.status == status]
        example = Problem(kinds[0], "more about this case, for a person to read").body()
        content = {MIMETYPE: {"schema": schema, "example": example}}
        responses[status] = {"description": "; ".join(kind.title for kind in kinds), "content": content}
    return responses
