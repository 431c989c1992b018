"""Records latent diffusion's schedules, losses and samplers, of a model that is a formula.

    git clone https://github.com/CompVis/stable-diffusion PATH
    python scripts/record_schedules.py --checkout=PATH --output=diffusion_schedules.npz

Needs torch, numpy, einops, tqdm and pillow; on CPU. The model is 0.3 x + 0.1 sin(t / 100), plus 0.05 c where it is
guided, c being 1 with a condition and 0 without. Written are

    NAME/betas …           of the schedules sd, ldm and cosine: β and their products in float64, buffers in float32
    NAME/ddim/S…/          DDIM's times, shares and noises, in float64
    forward/               of sd: maps with noise, what follows from them, losses
    sample/WAY/S…/         runs of DDIM and DPM-Solver++(2M): x and the data it speaks of after each step, the time that
                           the model is told; of eta 1 the noise, too

--like takes maps and noise from such a file, so that another version of a library can be set beside the one that wrote
it. tests/priors/test_noise.py takes such a file in place of its own: SCHEDULES_RECORDING=diffusion_schedules.npz.
"""

from __future__ import annotations  # torch may be missing

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
from authors import begun, earlier, finish, parser_of, taken
from record_reference import arrays

try:
    import torch
except ModuleNotFoundError:  # --help works without
    torch = None

SCHEDULES = {
    "sd": {"beta_schedule": "linear", "linear_start": 0.00085, "linear_end": 0.012},
    "ldm": {"beta_schedule": "linear", "linear_start": 0.0015, "linear_end": 0.0195},
    "cosine": {"beta_schedule": "cosine", "cosine_s": 8e-3},
}
BUFFERS = (
    "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped",
    "posterior_mean_coef1", "posterior_mean_coef2",
)  # fmt: skip
STEPS = (10, 20, 50, 30, 7)  # of DDIM; not every number is one that it can do
ELBO = 0.001  # weight of that loss
FORM = (4, 3, 3)  # of a map
GUIDED = 3.0
NOT_THERE = (
    "pytorch_lightning", "pytorch_lightning.utilities", "pytorch_lightning.utilities.distributed", "torchvision",
    "torchvision.utils", "ldm.models.autoencoder",
)  # fmt: skip

Arrays = dict[str, Any]


def main() -> None:
    """Writes the file."""
    parser = parser_of(__doc__, "github.com/CompVis/stable-diffusion")
    parser.add_argument("--like", type=Path, help="a recording whose maps and noise are taken")
    given = begun(parser)
    like, code = earlier(given.like), modules()
    found = {f"{name}/{key}": one for name in SCHEDULES for key, one in schedule(code, name).items()}
    found |= {f"forward/{key}": one for key, one in forward(code, like).items()}
    for way, steps in (("ddim", 10), ("ddim_eta1", 10), ("ddim_guided", 10)):
        found |= {f"sample/{way}/S{steps}/{key}": one for key, one in ddim(code, way, steps, like).items()}
    for way, steps in (("dpm_solver_2m", 10), ("dpm_solver_2m", 20), ("dpm_solver_2m_guided", 10)):
        found |= {f"sample/{way}/S{steps}/{key}": one for key, one in dpm_solver(code, way, steps, like).items()}
    plain = {name: one for name, one in found.items() if not isinstance(one, torch.Tensor)}
    finish(given.output, dict(arrays({name: found[name] for name in found if name not in plain})) | plain)


def modules() -> Any:
    """Theirs: the diffusion, DDIM, DPM-Solver and its sampler, what all of them use."""
    for name in NOT_THERE:
        sys.modules[name] = types.ModuleType(name)
    lightning, shown = sys.modules["pytorch_lightning"], sys.modules["torchvision.utils"]
    lightning.LightningModule = torch.nn.Module  # type: ignore[attr-defined]
    ranks = sys.modules["pytorch_lightning.utilities.distributed"]
    ranks.rank_zero_only = lambda function: function  # type: ignore[attr-defined]
    shown.make_grid = None  # type: ignore[attr-defined]
    for name in ("VQModelInterface", "IdentityFirstStage", "AutoencoderKL"):  # of latents, which are not recorded
        setattr(sys.modules["ldm.models.autoencoder"], name, torch.nn.Module)
    parts = {
        "ddpm": "models.diffusion.ddpm", "ddim": "models.diffusion.ddim", "util": "modules.diffusionmodules.util",
        "solver": "models.diffusion.dpm_solver.dpm_solver", "sampler": "models.diffusion.dpm_solver.sampler",
    }  # fmt: skip
    code = types.SimpleNamespace(**{name: importlib.import_module(f"ldm.{part}") for name, part in parts.items()})
    code.ddpm.instantiate_from_config = lambda config: Formula()
    return code


class Formula(torch.nn.Module if torch else object):  # type: ignore[misc]
    """The model; it notes the times that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        self.times.append(float(t[0]))
        told = 0.0 if c is None else 0.05 * c[:, None, None, None]
        return 0.3 * x + 0.1 * torch.sin(t.float() / 100)[:, None, None, None] + told


def diffusion(code: Any, name: str, **more: Any) -> Any:
    """Their class around the formula."""
    return code.ddpm.DDPM(unet_config=None, use_ema=False, monitor=None, **SCHEDULES[name], **more)


def schedule(code: Any, name: str) -> Arrays:
    """Of 1,000 times."""
    said = {key.removeprefix("beta_"): one for key, one in SCHEDULES[name].items()}
    betas = np.asarray(code.util.make_beta_schedule(n_timestep=1000, **said), np.float64)
    products = np.cumprod(1 - betas)
    model = diffusion(code, name)
    found: Arrays = {"betas": betas, "alphas_cumprod": products}
    found |= {buffer: getattr(model, buffer) for buffer in BUFFERS}
    for foretold in ("eps", "x0"):
        found[f"lvlb_weights/{foretold}"] = diffusion(code, name, parameterization=foretold).lvlb_weights
    for steps in STEPS:
        times = code.util.make_ddim_timesteps("uniform", steps, 1000, verbose=False)
        found[f"ddim/S{steps}/timesteps"] = times
        for eta in (0, 1):
            noises, shares, before = code.util.make_ddim_sampling_parameters(products, times, eta, verbose=False)
            found[f"ddim/S{steps}/sigmas/eta_{eta}"] = noises
        found |= {f"ddim/S{steps}/alphas": shares, f"ddim/S{steps}/alphas_prev": before}
    return found


def forward(code: Any, like: Arrays) -> Arrays:
    """Noise added, what is to be foretold of it, and the losses with both things foretold."""
    time = taken(like, "forward/t", torch.tensor([0, 1, 250, 999]))
    data, noise = (taken(like, f"forward/{name}", torch.randn(len(time), *FORM)) for name in ("x_start", "noise"))
    model, found = diffusion(code, "sd"), {"x_start": data, "noise": noise, "t": time}
    found["x_noisy"] = noisy = model.q_sample(data, time, noise)
    found["x_start_from_noise"] = model.predict_start_from_noise(noisy, time, noise)
    found["posterior_mean"], found["posterior_variance"], _ = model.q_posterior(data, noisy, time)
    for foretold in ("eps", "x0"):
        model = diffusion(code, "sd", parameterization=foretold, original_elbo_weight=ELBO)
        total, terms = model.p_losses(data, time, noise)
        found |= {f"loss/{foretold}/{term}": terms[f"train/loss_{term}"] for term in ("simple", "vlb")}
        found[f"loss/{foretold}/with_elbo_{ELBO}"] = total
    return found


def asked(code: Any) -> Any:
    """What a sampler wants of a model."""
    model, formula = diffusion(code, "sd"), Formula()
    named = {name: getattr(model, name) for name in ("num_timesteps", "betas", "alphas_cumprod", "alphas_cumprod_prev")}
    return types.SimpleNamespace(**named, device=torch.device("cpu"), apply_model=formula, times=formula.times)


def started(way: str, steps: int, like: Arrays) -> tuple[torch.Tensor, Arrays]:
    """The noise to begin with, and what to ask a sampler besides."""
    start = taken(like, f"sample/{way}/S{steps}/x_T", torch.randn(2, *FORM))
    guided = way.endswith("guided")
    told = {"unconditional_guidance_scale": GUIDED, "unconditional_conditioning": torch.zeros(2)} if guided else {}
    return start, {"conditioning": torch.full((2,), float(guided)), "x_T": start, "verbose": False, **told}


def ddim(code: Any, way: str, steps: int, like: Arrays) -> Arrays:
    """Watched after each step; the noise of eta 1 is drawn before."""
    start, said = started(way, steps, like)
    model, eta = asked(code), float(way.endswith("eta1"))
    noises = taken(like, f"sample/{way}/S{steps}/noise", torch.randn(steps, *start.shape))
    drawn = iter(noises)
    code.ddim.noise_like = lambda *_: next(drawn)
    sampler = on_cpu(code.ddim.DDIMSampler)(model)
    result, every = sampler.sample(steps, 2, FORM, eta=eta, log_every_t=1, **said)
    found = {"x_T": start, "result": result, **told(model, way), "eta": np.float32(eta)}
    found |= {"x": torch.stack(every["x_inter"][1:]), "pred_x0": torch.stack(every["pred_x0"][1:])}
    shares = {"sampler_alphas": sampler.ddim_alphas, "sampler_sigmas": sampler.ddim_sigmas}
    found |= {name: np.asarray(one, np.float64) for name, one in shares.items()}
    return found | ({"noise": noises} if eta else {})


def dpm_solver(code: Any, way: str, steps: int, like: Arrays) -> Arrays:
    """Watched where it steps."""
    start, said = started(way, steps, like)
    model, seen = asked(code), {"x": [], "pred_x0": [], "time": [], "order": []}

    class Watched(code.solver.DPM_Solver):  # type: ignore[name-defined,misc]
        def multistep_dpm_solver_update(
            self, x: Any, data: list[Any], times: list[Any], time: Any, order: int, **more: Any
        ) -> Any:
            after = super().multistep_dpm_solver_update(x, data, times, time, order, **more)
            seen["time"] = seen["time"] or [times[-1][0]]
            for name, one in {"x": after, "pred_x0": data[-1], "time": time[0], "order": order}.items():
                seen[name].append(one)
            return after

    code.sampler.DPM_Solver = Watched
    result, _ = on_cpu(code.sampler.DPMSolverSampler)(model).sample(steps, 2, FORM, **said)
    found = {name: torch.stack(one) for name, one in seen.items() if name != "order"}
    return {"x_T": start, "result": result, "order": np.array(seen["order"], np.int32), **told(model, way), **found}


def on_cpu(kind: type) -> type:
    """Their sampler, which puts what it keeps on a GPU."""
    return type(kind.__name__, (kind,), {"register_buffer": lambda self, name, one: setattr(self, name, one)})


def told(model: Any, way: str) -> Arrays:
    """The times of each step, and how much it was guided."""
    return {"t": np.array(model.times, np.float32), "guidance": np.float32(GUIDED if way.endswith("guided") else 1)}


if __name__ == "__main__":
    main()
