"""A finished run, pushed to the Hub."""

from pathlib import Path

from ..arguments.training_args import PaCoTrainingArguments


def publish(folder: Path, args: PaCoTrainingArguments) -> None:
    """Push a finished run where that was asked for."""
    if not args.push_to_hub or args.process_index != 0:
        return
    from ..hub.upload import push

    private, repo_id = bool(args.hub_private_repo), args.hub_model_id or folder.resolve().name
    info = push(folder, repo_id, private=private, revision=args.hub_revision, token=args.hub_token)
    print(f"published: {info.repo_url}")
