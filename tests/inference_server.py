"""A local server of the Open Inference Protocol (version 2) that runs one ONNX file, as far as the clients in the docs use it."""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

TYPES = {"INT16": np.int16, "FP32": np.float32}
LENGTH = "Inference-Header-Content-Length"  # of the JSON; the values of the tensors follow it as bytes


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    session: object
    batches: list[int]

    def log_message(self, *arguments):
        """Print nothing."""

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        split = int(self.headers.get(LENGTH, len(content)))
        request, rest = json.loads(content[:split]), content[split:]
        inputs = {}
        for tensor in request["inputs"]:
            kind = TYPES[tensor["datatype"]]
            if size := tensor.get("parameters", {}).get("binary_data_size"):
                values, rest = np.frombuffer(rest[:size], kind), rest[size:]
            else:
                values = np.array(tensor["data"], kind)
            inputs[tensor["name"]] = values.reshape(tensor["shape"])
        self.batches.append(len(inputs["audio"]))
        names = [output["name"] for output in request.get("outputs", ())] or ["probabilities", "embedding"]
        outputs = [
            {"name": name, "datatype": "FP32", "shape": array.shape, "data": array.ravel().tolist()}
            for name, array in zip(names, self.session.run(names, inputs), strict=True)
        ]
        there = self.path == "/v2/models/tags/infer"
        answer = json.dumps({"model_name": "tags", "outputs": outputs} if there else {"error": "no such model"}).encode()
        self.send_response(200 if there else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@contextlib.contextmanager
def serve(model: Path) -> Iterator[tuple[str, list[int]]]:
    """Serve a file as the model "tags"; yields the address and the list of the sizes of the batches."""
    import onnxruntime

    handler = type("Loaded", (Handler,), {"session": onnxruntime.InferenceSession(model), "batches": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", handler.batches
    finally:
        server.shutdown()
        server.server_close()
