"""Push an exported prompt to the Hugging Face hub."""

import json
import os
from pathlib import Path

from jax_prompt.exchange.peft import CARD, CONFIG, WEIGHTS
from jax_prompt.files import first_line


def push_to_hub(folder: str | os.PathLike, repository: str, *, private: bool = False,
                endpoint: str | None = None, token: str | None = None) -> str:
    """Upload an adapter that `export_prompt` wrote, making the repository if there is none.

    Only the adapter's three files are sent, in one commit, whatever else the folder holds.

    Args:
        folder: the adapter.
        repository: 'owner/name', or a name of the token's owner.
        private: for a repository that is made, hide it from others.
        endpoint: of another hub than the one that HF_ENDPOINT or the package names.
        token: to write with; by default the one that `hf auth login` or HF_TOKEN left.

    Returns:
        The address of the commit's page.

    Raises:
        FileNotFoundError: the folder lacks one of the files.
        ValueError: the hub refuses or cannot be reached; one line that says why.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS, CARD):
        if not (folder / name).is_file():
            raise FileNotFoundError(f'{folder / name} does not exist; export the prompt to PEFT '
                                    'and push that folder')
    # Imported here: it takes a second.
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    api = HfApi(endpoint=endpoint, token=token, library_name='jax_prompt')
    try:
        made = api.create_repo(repository, private=private or None, exist_ok=True)
        commit = api.upload_folder(repo_id=made.repo_id, folder_path=folder,
                                   allow_patterns=[CONFIG, WEIGHTS, CARD],
                                   commit_message='Upload a soft prompt exported by jax_prompt')
    except HfHubHTTPError as error:
        status, said = error.response.status_code, error.server_message
        reason = f'{status}, {first_line(said)}' if said else f'{status}'
        hint = ('; log in with a token that may write there (hf auth login)'
                if status in (401, 403, 404) else '')
        raise ValueError(f'the hub at {api.endpoint} refused the push to {repository!r} '
                         f'({reason}){hint}') from error
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(f'cannot push to {repository!r}: {api.endpoint} does not answer as a hub '
                         'does; check HF_ENDPOINT') from error
    except (HFValidationError, ValueError, OSError) as error:
        raise ValueError(f'cannot push to {repository!r}: {first_line(error)}') from error
    # Network errors are the HTTP client's own, which changed between releases of huggingface_hub.
    except Exception as error:
        if type(error).__module__.partition('.')[0] in ('httpx', 'httpx2', 'requests'):
            raise ValueError(f'cannot reach the hub at {api.endpoint} to push to {repository!r}: '
                             f'{first_line(error)}') from error
        raise
    return str(commit.commit_url)
