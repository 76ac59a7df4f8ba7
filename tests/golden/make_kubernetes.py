"""Make kubernetes.json: the JSON schemas of a JobSet and a TrainJob, cut down to the fields that launch/kube.py sets.

    pip install kubeflow-trainer-api==2.3.0      (in an environment of its own; Apache 2.0, made from the OpenAPI of the resources)
    python tests/golden/make_kubernetes.py       (in that environment)

A field that is not in the official schema stays out, and the test then refuses a manifest that sets it. Run this again when
launch/kube.py sets a new field.
"""

import importlib.metadata
import json
from pathlib import Path

from kubeflow_trainer_api import models

HERE = Path(__file__).parent
KINDS = {"JobSet": models.JobsetV1alpha2JobSet, "TrainJob": models.TrainerV1alpha1TrainJob}
KEPT = {"type", "enum", "format", "items", "minimum", "maximum", "pattern", "minItems", "maxItems", "maxLength", "minLength"}
FIELDS = set(
    [
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        "name",
        "namespace",
        "annotations",
        "network",
        "enableDNSHostnames",
        "subdomain",
        "publishNotReadyAddresses",
        "failurePolicy",
        "maxRestarts",
        "replicatedJobs",
        "replicas",
        "template",
        "parallelism",
        "completions",
        "completionMode",
        "backoffLimit",
        "restartPolicy",
        "terminationGracePeriodSeconds",
        "serviceAccountName",
        "nodeSelector",
        "volumes",
        "persistentVolumeClaim",
        "claimName",
        "emptyDir",
        "medium",
        "containers",
        "image",
        "command",
        "args",
        "ports",
        "containerPort",
        "resources",
        "requests",
        "limits",
        "volumeMounts",
        "mountPath",
        "runtimeRef",
        "trainer",
        "numNodes",
        "resourcesPerNode",
        "runtimePatches",
        "manager",
        "trainingRuntimeSpec",
    ]
)


def trim(node: dict, definitions: dict) -> dict:
    """The schema without descriptions, defaults and other fields, and with the definitions in their places."""
    if "$ref" in node:
        name = node["$ref"].split("/")[-1]
        return {"type": "string"} if name.endswith("Quantity") else trim(definitions[name], definitions)
    if "anyOf" in node:
        (inner,) = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
        return trim(inner, definitions)
    out = {key: value for key, value in node.items() if key in KEPT}
    if "items" in node:
        out["items"] = trim(node["items"], definitions)
    if "properties" in node:
        out["properties"] = {key: trim(value, definitions) for key, value in node["properties"].items() if key in FIELDS}
        out["required"] = node.get("required", [])
        out["additionalProperties"] = False
    elif isinstance(node.get("additionalProperties"), dict):
        out["additionalProperties"] = trim(node["additionalProperties"], definitions)
    return out


def main() -> None:
    """Write the schemas beside this file."""
    version = importlib.metadata.version("kubeflow-trainer-api")
    schemas = {}
    for kind, model in KINDS.items():
        schema = model.model_json_schema(by_alias=True)
        schemas[kind] = trim(schema, schema["$defs"])
    what = {"source": f"PyPI kubeflow-trainer-api {version}", "licence": "Apache-2.0", "schemas": schemas}
    (HERE / "kubernetes.json").write_text(json.dumps(what, indent=1) + "\n")


if __name__ == "__main__":
    main()
