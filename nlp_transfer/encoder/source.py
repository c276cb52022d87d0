"""From the name of an encoder to a folder whose weights are verified: local folder, installed package or Hub revision.

Knows files and digests; it loads no weights and must not know torch, architectures or heads. It never runs code that
lies beside the weights.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlp_transfer.errors import UserError
from nlp_transfer.settings import EncoderSettings

# What is fetched from the Hub: weights as safetensors, configuration, vocabulary; no code, no pickle, no ONNX copies.
PATTERNS = ["model*.safetensors", "*.json", "*.txt", "*.model", "*.merges", "1_Pooling/*"]
HUB_SECONDS = 10  # how long the Hub may be silent before it counts as unreachable
POOLED = "nlp_transfer_pooled"  # the one model type whose remote code is our own and is never taken from the folder
OFFLINE = 'for the default encoder: pip install "nlp-transfer[offline]"; otherwise set encoder.name to a local folder'


@dataclass(frozen=True)
class Source:
    """A verified encoder folder.

    Attributes:
        folder: Where configuration, tokenizer and weights lie.
        name: The name it was asked for by.
        origin: ``folder``, ``package <name>`` or ``Hub revision <commit>``.
        sha256: Digest of the weight file; of several shards: of the sorted lines ``<file name> <digest>``.
        revision: The Hub commit, or None.
    """

    folder: Path
    name: str
    origin: str
    sha256: str
    revision: str | None


def locate(settings: EncoderSettings) -> Source:
    """Find the encoder of `settings`, fetch it if need be, and verify its weights.

    Tried in this order: a local folder named by `name`, the installed `package`, the Hugging Face Hub.

    Raises:
        UserError: nothing found, no safetensors weights, a digest that differs, or remote code that is not allowed.
    """
    local = Path(settings.name).expanduser()
    revision = None
    if local.is_dir():
        folder, origin = local, "folder"
    elif (packaged := _packaged(settings)) is not None:
        folder, origin = packaged, f"package {settings.package}"
    else:
        folder, revision = _downloaded(settings)
        origin = f"Hub revision {revision}"
    _check_code(folder, settings)
    digest = weights_digest(folder)
    if settings.sha256 is not None and digest != settings.sha256.lower():
        raise UserError(
            f"encoder.sha256: the weights of {settings.name!r} ({origin}, {folder}) have sha256 {digest}, not the "
            f"expected {settings.sha256.lower()}; if another encoder is meant, set encoder.sha256=null "
            "encoder.package=null"
        )
    return Source(folder=folder, name=settings.name, origin=origin, sha256=digest, revision=revision)


def weights_digest(folder: Path) -> str:
    """Return the sha256 of the safetensors weights in `folder` (see `Source.sha256`).

    Raises:
        UserError: the folder holds no safetensors weights, or a shard is missing.
    """
    files = _weight_files(folder)
    digests = []
    for path in files:
        with path.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    if len(files) == 1:
        return digests[0]
    lines = sorted(f"{path.name} {digest}" for path, digest in zip(files, digests, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_json(path: Path, kind: type = dict) -> Any:
    """Return the JSON object (or, with `kind=list`, array) in `path`; an absent file is an empty one.

    Raises:
        UserError: the file holds something else.
    """
    if not path.is_file():
        return kind()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, kind):
        raise UserError(f"{path}: expected a JSON {kind.__name__}, found {type(content).__name__}")
    return content


def _packaged(settings: EncoderSettings) -> Path | None:
    """Return the `model/` folder of the installed package, or None if no package is named or installed."""
    if settings.package is None:
        return None
    short = settings.name.rsplit("/", 1)[-1]
    if _plain(short) not in _plain(settings.package):  # encoder.name was changed, the package of the default was not
        raise UserError(
            f"encoder.package={settings.package!r} does not hold encoder.name={settings.name!r}: choose another file "
            "of conf/encoder, or set encoder.package=null encoder.sha256=null"
        )
    # Only found, not imported: the package's __init__ may import libraries we do not need.
    spec = importlib.util.find_spec(settings.package) if settings.package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return folder if folder.is_dir() else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _downloaded(settings: EncoderSettings) -> tuple[Path, str]:
    """Fetch from the Hub (or its local cache); return the snapshot folder and its commit."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub import errors as hub

    name, revision = settings.name, settings.revision
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"encoder.name={name!r}: there is no such folder")
    if settings.trust_remote_code and not _is_commit(revision):
        raise UserError(
            f"encoder.trust_remote_code=true needs encoder.revision=<40-character commit> for the Hub repository "
            f"{name!r}: code that can change under the same name is not run (encoder.revision={revision!r})"
        )
    patterns = [*PATTERNS, "*.py"] if settings.trust_remote_code else PATTERNS
    at = f" at revision {revision!r}" if revision else ""
    # Whatever HTTP library the client is built on: its root error, and OSError.
    failures: Any = hub.HfHubHTTPError.__bases__
    # The client's own messages are long and may quote requests; one sentence each is what helps.
    try:
        try:
            # Asked first because it takes a time limit; the download itself waits for ever on a server that is silent.
            HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS)
        except failures as error:
            if isinstance(error, (hub.RepositoryNotFoundError, hub.RevisionNotFoundError)):
                raise
            folder = snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=True)
        else:
            # By the name that was given, not by its commit: the cache then knows the name when the Hub is gone.
            folder = snapshot_download(name, revision=revision, allow_patterns=patterns)
    except hub.GatedRepoError:
        reason = f"is gated: accept its terms at https://huggingface.co/{name} and log in with `hf auth login`"
    except hub.RevisionNotFoundError:
        reason = "has no such revision"
    except hub.RepositoryNotFoundError:
        reason = "is neither a local folder nor a Hub repository that can be seen (for a private one: `hf auth login`)"
    except hub.HFValidationError:
        reason = "is neither a local folder nor a valid Hub name (owner/name)"
    except failures:
        reason = f"is not on this machine and cannot be fetched from the Hub; {OFFLINE}"
    else:
        return Path(folder), Path(folder).name
    raise UserError(f"encoder.name={name!r}{at} {reason}")


def _is_commit(revision: str | None) -> bool:
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    if index.is_file():
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        missing = [shard for shard in shards if Path(shard).name != shard or not (folder / shard).is_file()]
        if missing or not shards:
            raise UserError(f"{index}: names weight files that are not there: {', '.join(missing) or 'none'}")
        return [folder / shard for shard in shards]
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder}: holds an adapter without its encoder; give the folder of the merged model")
    raise UserError(
        f"{folder}: no model.safetensors. Only safetensors weights are read: pytorch_model.bin is a pickle, which can "
        "run code when it is opened. Many such Hub repositories offer a converted copy as a pull request "
        "(encoder.revision=refs/pr/<number>); or convert it once on a machine you trust with "
        "`AutoModel.from_pretrained(...).save_pretrained(...)`"
    )


def _check_code(folder: Path, settings: EncoderSettings) -> None:
    """Refuse a folder that asks for its own code, unless that is allowed and, on the Hub, pinned to a commit."""
    config = read_json(folder / "config.json")
    if not config:
        raise UserError(f"{folder}: no config.json, so this is not an encoder folder of transformers")
    if config.get("model_type") == POOLED:
        config.pop("auto_map", None)  # names our own class, which is taken from this package
    files = {"config.json": config, "tokenizer_config.json": read_json(folder / "tokenizer_config.json")}
    asks = [file for file, content in files.items() if _asks_for_code(content)]
    if not asks or settings.trust_remote_code:  # for the Hub, `_downloaded` has already insisted on a commit
        return
    known = _is_known(str(config.get("model_type")))
    hint = (
        f"; transformers has its own code for {config['model_type']!r}: delete the auto_map entries in a local copy "
        "of the folder to use that instead"
        if known
        else ""
    )
    raise UserError(
        f"encoder.name={settings.name!r}: {' and '.join(asks)} ask to run code from the repository (auto_map). Read "
        f"that code, then set encoder.trust_remote_code=true and, for a Hub repository, encoder.revision=<commit>{hint}"
    )


def _asks_for_code(value: Any) -> bool:
    """Whether `auto_map` occurs anywhere: a nested configuration can ask for code as well (CVE-2026-5241)."""
    return any("auto_map" in node for node in _objects(value))


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(child)


def _is_known(model_type: str) -> bool:
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING
