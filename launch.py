"""Train: python launch.py --config=configs/X.py[:variant] [--workdir=DIR] [--stage=S] [--config.a.b=v …]

Every stage of the config in order, or one; what is finished is skipped, what was interrupted goes on.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from vqvae_jax import __version__


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; python launch.py --help shows all flags\n")


def folder(text: str) -> Path:
    """A path; ~ is the home of whoever types, which a shell does not say behind a =."""
    return Path(os.path.expanduser(text))


def parser() -> Parser:
    """The flags of launch.py; --config.a.b=v are left over."""
    usage, _, what = str(__doc__).removeprefix("Train: ").partition("\n\n")
    flags = Parser(prog="launch.py", usage=usage, description=what, add_help=False, allow_abbrev=False)
    flags.add_argument(
        "--config", metavar="FILE[:VARIANT]", help="what to train; --config.a.b=VALUE sets any field of it"
    )
    flags.add_argument(
        "--workdir", metavar="DIR", type=folder, help="where the run lives (default: runs/FILE[-VARIANT])"
    )
    flags.add_argument("--stage", metavar="STAGE", help="train this one only: autoencoder, top, bottom, …")
    flags.add_argument(
        "--from_step", metavar="N", type=int, help="go on from this step of --stage; later ones go aside"
    )
    flags.add_argument("--distributed", action="store_true", help="one process of many: SLURM, Kubernetes, MPI, TPU")
    flags.add_argument(
        "--dry_run",
        action="store_true",
        help="say of each stage how large it is and how long it takes",
    )
    flags.add_argument("--version", action="version", version=f"vqvae_jax {__version__}")
    flags.add_argument(
        "--help", "-h", action="store_true", help="show this and the configs there are; with --config all its fields"
    )
    return flags


def main(argv: list[str] | None = None) -> int:
    """Run one command line; the exit code is 0, 1 at NaN, 2 where the user has something to put right."""
    argv = sys.argv[1:] if argv is None else argv
    given, overrides = parser().parse_known_args(argv)
    from vqvae_jax.endings import ended

    return ended(lambda: show_help(given, overrides) if given.help or not argv else launch(given, overrides))


def show_help(given: argparse.Namespace, overrides: list[str]) -> int:
    """Print the flags and the configs there are, or all fields of one with their meaning."""
    from vqvae_jax import config

    print(parser().format_help())
    if given.config:
        check_flags(given, overrides)
        print(*config.explained(config.read(given.config, overrides)), sep="\n", flush=True)
    else:
        print("configs:", *(f"  {path}\n      {line}" for path, line in config.available()), sep="\n", flush=True)
    return 0


def launch(given: argparse.Namespace, overrides: list[str]) -> int:
    """Read the config, start the devices, hand over to the recipe."""
    from vqvae_jax import config as configs

    check_flags(given, overrides)
    check_workdir(given)
    if given.distributed:
        join()
    config = configs.read(given.config, overrides)
    if given.stage:
        configs.check_stage(config, given.stage)
    from vqvae_jax import recipe
    from vqvae_jax.devices import check_platform, use_compilation_cache

    use_compilation_cache()
    check_platform()
    workdir = given.workdir or default_workdir(given.config)
    if given.dry_run:
        from vqvae_jax.dry_run import dry_run

        return dry_run(config, workdir, given.stage)
    if given.from_step is not None:
        recipe.rewind(config, workdir, given.stage, given.from_step)
    recipe.run(config, workdir, given.stage)
    return 0


def check_flags(given: argparse.Namespace, overrides: list[str]) -> None:
    """UserError for flags that are not there, and for a missing --config."""
    from vqvae_jax import config
    from vqvae_jax.types import UserError, unknown

    for flag in (word.partition("=")[0] for word in overrides if word.startswith("--")):
        if not flag.startswith("--config."):
            known = ["--config", "--workdir", "--stage", "--from_step", "--distributed", "--dry_run"]
            known += ["--version", "--help"]
            raise UserError(unknown("there is no flag", flag, known, "There are"))
    if given.dry_run and given.from_step is not None:
        raise UserError("--dry_run writes nothing, and --from_step moves checkpoints; leave one of both out")
    if given.from_step is not None and not given.stage:
        raise UserError("--from_step=N is a step of one stage; say which: --stage=autoencoder --from_step=N")
    if not given.config:
        paths = ", ".join(path for path, _ in config.available())
        raise UserError(f"--config=FILE is missing. There are: {paths}")


def check_workdir(given: argparse.Namespace) -> None:
    """UserError where there can be none."""
    from vqvae_jax.files import check_place
    from vqvae_jax.types import UserError

    if given.config.endswith(".json") and not given.workdir:
        raise UserError("--workdir=DIR is missing: the name of a config.json says nothing of where the new run lives")
    if given.workdir and given.workdir.exists() and not given.workdir.is_dir():
        raise UserError(f"--workdir={given.workdir} is a file; name a folder")
    check_place("--workdir", given.workdir or default_workdir(given.config))


def join() -> None:
    """Meet the other processes, before JAX touches a device."""
    import jax

    from vqvae_jax.types import UserError

    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise UserError(f"--distributed found no cluster ({error}); on one machine leave it out") from error


def default_workdir(argument: str) -> Path:
    """runs/openmoji_hierarchical-tiny for configs/openmoji_hierarchical.py:tiny."""
    file, _, variant = argument.partition(":")
    return Path("runs") / "-".join(filter(None, (Path(file).stem, variant)))


if __name__ == "__main__":
    from vqvae_jax.devices import use_large_pages

    use_large_pages()
    sys.exit(main())
