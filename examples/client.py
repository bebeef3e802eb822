"""A client of the endpoint in two formats: JSON with boto3, as clients of the original do, and records over plain HTTP.

    seqwright serve --model MODEL &
    python examples/client.py --model MODEL "h e l l o" "w o r l d"

Records hold ids, so they need the vocabularies in the model folder. Install boto3 and httpx first.
"""

import argparse
import json
from pathlib import Path

import boto3
import httpx

from seqwright.data.recordio import decode_records, encode_records
from seqwright.data.sequences import Sequences
from seqwright.data.vocabulary import Vocabulary


def ask_in_json(url: str, sources: list[str]) -> None:
    """Print translations, their scores and alternatives, and the source token that each token attends to most."""
    client = boto3.client(
        "sagemaker-runtime",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="any",  # the endpoint looks at no credentials
        aws_secret_access_key="any",
    )
    configuration = {"scores": True, "nbest": 2, "tokens": True}
    body = json.dumps({"instances": [{"data": source, "configuration": configuration} for source in sources]})
    answer = client.invoke_endpoint(EndpointName="any", ContentType="application/json", Body=body)
    for source, prediction in zip(sources, json.loads(answer["Body"].read())["predictions"], strict=True):
        print(f"{source}: {prediction['target']} ({prediction['score']:.3f})")
        print("    next best:", prediction["nbest"][1]["target"])
        print("    token by token:", ", ".join(f"{each['source']} → {each['token']}" for each in prediction["tokens"]))


def ask_in_records(url: str, sources: list[str], model: Path) -> None:
    """Print the translations of sequences of ids."""
    ours, theirs = (Vocabulary.load(model / f"vocab.{side}.json") for side in ("src", "trg"))
    body = encode_records({"source": Sequences.of([ours.ids(source.split()) for source in sources])})
    headers = {"Content-Type": "application/x-recordio-protobuf"}
    answer = httpx.post(f"{url}/invocations", content=body, headers=headers, timeout=60)
    answer.raise_for_status()
    (targets,) = decode_records(answer.content, ["target"], "the answer")
    for number, source in enumerate(sources):
        print(f"{source}: {' '.join(theirs.words(targets[number].tolist()))}")


def main() -> None:
    """Translate in both formats."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--model", type=Path, required=True, help="the folder of the model that is served")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    options = parser.parse_args()
    ask_in_json(options.url, options.sources)
    ask_in_records(options.url, options.sources, options.model)


if __name__ == "__main__":
    main()
