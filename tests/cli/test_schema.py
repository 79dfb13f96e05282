"""`holdfast schema`: the JSON Schema of a task, of a method's settings and of a manifest."""

import json

import pytest

from holdfast import methods
from holdfast.base.schema import list_settings
from holdfast.conform.task import KeepTask
from holdfast.pipeline.manifest import Manifest
from holdfast.pipeline.task import EditTask

from .test_app import call


def schema(*arguments):
    result = call("schema", *arguments)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_schema_of_a_task_has_every_field_with_its_description():
    properties = schema()["properties"]
    assert properties == schema("edit")["properties"]
    assert list(properties) == list(list_settings(EditTask))
    assert all(entry["description"] for entry in properties.values())
    assert properties["crf"]["anyOf"][0] == {"type": "integer", "minimum": 0, "maximum": 63}
    assert schema()["required"] == ["input", "output"]
    assert schema()["additionalProperties"] is False


def test_the_schema_of_a_keep_has_every_field_with_its_description():
    properties = schema("keep")["properties"]
    assert list(properties) == list(list_settings(KeepTask))
    assert all(entry["description"] for entry in properties.values())
    assert schema("keep")["required"] == ["source", "edited"]
    assert schema("keep")["additionalProperties"] is False


@pytest.mark.parametrize("method", methods.names())
def test_the_schema_of_a_method_has_its_settings(method):
    assert list(schema(method)["properties"]) == list(list_settings(methods.load(method).Config))


def test_the_schema_of_a_manifest_has_its_stable_names():
    stable = {"output", "task", "method", "backbone", "seed", "frames", "rate", "size", "plan"}
    stable |= {"audio_tracks", "seconds", "evaluations", "peak_memory_mb", "preservation"}
    assert stable <= set(schema("manifest")["properties"]) == set(Manifest.model_fields)


def test_an_unknown_schema_gets_a_suggestion():
    result = call("schema", "flowedti")
    assert result.exit_code == 2
    assert "unknown schema 'flowedti': did you mean flowedit" in result.stderr
