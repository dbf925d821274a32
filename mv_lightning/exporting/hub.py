"""Exports on the Hugging Face Hub.

The token is the one that `hf auth login` has stored or the environment has (`HF_TOKEN`); this
package neither reads nor writes it.
"""

from __future__ import annotations

from pathlib import Path

from mv_lightning.formatting import first_line


def check_login(repo: str) -> None:
    """Check before a long export that its result can be pushed.

    Args:
        repo: `owner/name`.

    Raises:
        ValueError: The name is not of this form, or nobody is logged in.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import httpx, validate_repo_id

    if repo.count("/") != 1:
        raise ValueError(f"expected --push OWNER/NAME, got {repo!r}")
    validate_repo_id(repo)
    try:
        HfApi().whoami()
    except (OSError, httpx.HTTPError) as error:
        raise ValueError(
            f"--push {repo}: the Hub does not say who you are ({first_line(error)}). Log in with "
            "`hf auth login`, or set HF_TOKEN"
        ) from error


def push(folder: Path, repo: str, private: bool) -> str:
    """Upload an export in one commit.

    Args:
        folder: The export.
        repo: `owner/name`; made if there is none. Files of an earlier export are replaced.
        private: Whether a repository that is made is private.

    Returns:
        The address of the commit.

    Raises:
        ValueError: The Hub refuses it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import httpx

    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message="Verifier of math answers",
            delete_patterns="*",
        )
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise ValueError(
            f"{folder} was written but could not be pushed to {repo}: {first_line(error)}. Check "
            "that you may write there, and push it with `hf upload`"
        ) from error
    return commit.commit_url
