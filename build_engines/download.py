"""Fetch the published Spark-TTS checkpoint from Hugging Face."""

from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from build_engines.checkpoint import CONFIG_FILES, WEIGHTS_FILES

REPOSITORY = "SparkAudio/Spark-TTS-0.5B"
REVISION = "642071559bfc6346c2359d19dcb6be3f9dd8a05d"  # a commit, so that nobody gets other weights some day
LICENCE_NOTICE = f"""\
The weights of {REPOSITORY} (3.9 GB) are under the licence CC BY-NC-SA 4.0: not for commercial use; name the
authors; pass on what you make of them under the same terms. https://creativecommons.org/licenses/by-nc-sa/4.0/"""


class DownloadError(RuntimeError):
    """The checkpoint could not be fetched; the message says what to do about it."""


def download_checkpoint(output_dir: Path) -> Path:
    """Fetch what is missing of the published checkpoint into `output_dir` and return it.

    Files that are there already are not fetched again, and a file that broke off goes on where it stopped. The
    variables HF_ENDPOINT (a mirror) and HF_TOKEN (an account) work as everywhere in Hugging Face's tools.

    Raises:
        DownloadError: there is no way to the server, or it refuses, or it does not have a file.
    """
    print(LICENCE_NOTICE, flush=True)
    files = [*CONFIG_FILES, *WEIGHTS_FILES]
    try:
        snapshot_download(REPOSITORY, revision=REVISION, local_dir=output_dir, allow_patterns=files)
    except HfHubHTTPError as error:
        raise DownloadError(f"{REPOSITORY} at {REVISION} was refused: {error}") from error
    except (HTTPError, OSError) as error:
        raise DownloadError(
            f"{REPOSITORY} could not be fetched from {constants.ENDPOINT}: "
            f"{error.__cause__ or error}. Check the network (HTTPS_PROXY sets a proxy, HF_ENDPOINT a mirror), then "
            "run the same command again: it goes on from here."
        ) from error
    # Without a network, but with some files there already, the hub's client returns as if all were well.
    missing = [name for name in files if not (output_dir / name).is_file()]
    if missing:
        raise DownloadError(f"{REPOSITORY} came without {', '.join(missing)}: run the same command again")
    return output_dir
