"""Amplitude laws fitted to SAR images: Rayleigh, Weibull, log-normal, gamma and K.

Every fit takes amplitudes (any positive unit) with optional weights, so a histogram is fitted as its levels weighted by
its counts. Rayleigh, Weibull, log-normal and gamma by maximum likelihood, K by log-cumulants (Nicolas 2002).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import digamma, gammainc, gammaln, kve, polygamma

from sarnb.errors import InputError

FAMILIES = ("rayleigh", "weibull", "lognormal", "gamma", "k")
_SMOOTH_ORDER = 100.0  # a K law of higher texture order cannot be told from its limit without texture


@dataclass(frozen=True)
class AmplitudeFit:
    """One fitted law: `family` of FAMILIES and its `parameters` (scales in the unit of the amplitudes)."""

    family: str
    parameters: dict[str, float]

    def pdf(self, amplitude: np.ndarray) -> np.ndarray:
        """Probability density at `amplitude` (any shape, > 0), in 1/unit."""
        amplitude = np.asarray(amplitude, dtype=np.float64)
        if self.family == "k":
            return _k_pdf(amplitude, **self.parameters)
        return _frozen(self).pdf(amplitude)

    def cdf(self, amplitude: np.ndarray) -> np.ndarray:
        """Distribution function at `amplitude` (any shape), 0 to 1."""
        amplitude = np.asarray(amplitude, dtype=np.float64)
        if self.family == "k":
            return _k_cdf(amplitude, **self.parameters)
        return _frozen(self).cdf(amplitude)


def _frozen(fit: AmplitudeFit):
    p = fit.parameters
    match fit.family:
        case "rayleigh":
            return stats.rayleigh(scale=p["scale"])
        case "weibull":
            return stats.weibull_min(p["shape"], scale=p["scale"])
        case "lognormal":
            return stats.lognorm(p["sigma"], scale=np.exp(p["mu"]))
        case "gamma":
            return stats.gamma(p["shape"], scale=p["scale"])
    raise InputError(f"amplitude fit: unknown law {fit.family!r}; use one of {', '.join(FAMILIES)}.")


def _prepare(amplitude: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    amplitude = np.asarray(amplitude, dtype=np.float64).ravel()
    weights = np.ones_like(amplitude) if weights is None else np.asarray(weights, dtype=np.float64).ravel()
    if weights.shape != amplitude.shape:
        raise InputError(f"amplitude fit: {len(amplitude)} amplitudes but {len(weights)} weights; give one weight each.")
    if not (np.isfinite(amplitude).all() and np.isfinite(weights).all()):
        raise InputError("amplitude fit: NaN or infinite values; leave them out.")
    used = weights > 0
    amplitude, weights = amplitude[used], weights[used]
    if (amplitude <= 0).any():
        raise InputError("amplitude fit: amplitudes of 0 or less; leave them out or add half a level.")
    if len(np.unique(amplitude)) < 2:
        raise InputError("amplitude fit: fewer than two different amplitudes; give an image that is not constant.")
    return amplitude, weights / weights.sum()


def fit_rayleigh(amplitude: np.ndarray, weights: np.ndarray | None = None) -> AmplitudeFit:
    """Rayleigh by maximum likelihood: scale^2 = E[A^2]/2. Single-look speckle on a flat scene."""
    a, w = _prepare(amplitude, weights)
    return AmplitudeFit("rayleigh", {"scale": float(np.sqrt(w @ a**2 / 2.0))})


def fit_weibull(amplitude: np.ndarray, weights: np.ndarray | None = None) -> AmplitudeFit:
    """Weibull by maximum likelihood; shape 2 is Rayleigh, a lower shape has the heavier tail."""
    a, w = _prepare(amplitude, weights)
    log = np.log(a)
    log = log - log.max()  # the equation for the shape is free of scale; this keeps powers finite
    mean_log = w @ log

    def equation(shape: float) -> float:
        power = w * np.exp(shape * log)
        return float(power @ log / power.sum() - 1.0 / shape - mean_log)

    shape = brentq(equation, 1e-2, 1e3)
    scale = a.max() * float(w @ np.exp(shape * log)) ** (1.0 / shape)
    return AmplitudeFit("weibull", {"shape": float(shape), "scale": float(scale)})


def fit_lognormal(amplitude: np.ndarray, weights: np.ndarray | None = None) -> AmplitudeFit:
    """Log-normal by maximum likelihood: mean `mu` and standard deviation `sigma` of ln A."""
    a, w = _prepare(amplitude, weights)
    mu = float(w @ np.log(a))
    return AmplitudeFit("lognormal", {"mu": mu, "sigma": float(np.sqrt(w @ (np.log(a) - mu) ** 2))})


def fit_gamma(amplitude: np.ndarray, weights: np.ndarray | None = None) -> AmplitudeFit:
    """Gamma law of the amplitude by maximum likelihood: ln k - psi(k) = ln E[A] - E[ln A], scale = E[A]/k."""
    a, w = _prepare(amplitude, weights)
    mean = float(w @ a)
    gap = float(np.log(mean) - w @ np.log(a))
    shape = brentq(lambda k: np.log(k) - digamma(k) - gap, 1e-3, 1e9)
    return AmplitudeFit("gamma", {"shape": float(shape), "scale": mean / shape})


def fit_k(amplitude: np.ndarray, weights: np.ndarray | None = None, looks: float = 1.0) -> AmplitudeFit:
    """K law by log-cumulants: gamma speckle of `looks` looks times gamma texture of order `nu`.

    Intensity I = A^2 has kappa_2 = psi'(L) + psi'(nu) and kappa_1 = ln mean + psi(L) - ln L + psi(nu) - ln nu.
    Where the data vary less than speckle alone, nu is infinite (no texture) and the law is Nakagami.
    Jakeman and Pusey, IEEE T-AP 24 (1976) 806; Nicolas, Traitement du Signal 19 (2002) 139.
    """
    if not looks > 0:
        raise InputError(f"amplitude fit: {looks} looks; give a number above 0.")
    a, w = _prepare(amplitude, weights)
    log = np.log(a)
    first = float(w @ log)
    second = 4.0 * float(w @ (log - first) ** 2)
    texture = second - float(polygamma(1, looks))
    nu = np.inf
    if texture > float(polygamma(1, _SMOOTH_ORDER)):
        nu = float(brentq(lambda value: float(polygamma(1, value)) - texture, 1e-3, _SMOOTH_ORDER))
    shift = 0.0 if np.isinf(nu) else digamma(nu) - np.log(nu)
    mean = float(np.exp(2.0 * first - digamma(looks) + np.log(looks) - shift))
    return AmplitudeFit("k", {"mean": mean, "nu": nu, "looks": float(looks)})


def _k_pdf(amplitude: np.ndarray, mean: float, nu: float, looks: float) -> np.ndarray:
    if np.isinf(nu):
        return stats.nakagami(looks, scale=np.sqrt(mean)).pdf(amplitude)
    rate = np.sqrt(looks * nu / mean)
    argument = np.maximum(2.0 * rate * amplitude, 1e-300)
    order = abs(nu - looks)
    with np.errstate(over="ignore", divide="ignore"):
        bessel = np.log(kve(order, argument)) - argument
    # kve overflows at small arguments; its leading term Gamma(order)/2 (2/x)^order is exact there
    small = gammaln(max(order, 1e-9)) - np.log(2.0) + order * np.log(2.0 / argument)
    bessel = np.where(np.isfinite(bessel), bessel, small)
    log = np.log(4.0 * rate) + (looks + nu - 1.0) * np.log(argument / 2.0) - gammaln(looks) - gammaln(nu) + bessel
    return np.exp(log)


def _k_cdf(amplitude: np.ndarray, mean: float, nu: float, looks: float, nodes: int = 1024) -> np.ndarray:
    intensity = np.asarray(amplitude)[..., None] ** 2
    if np.isinf(nu):
        return gammainc(looks, looks * intensity[..., 0] / mean)
    # average the speckle law over equally probable values of the texture
    texture = stats.gamma.ppf((np.arange(nodes) + 0.5) / nodes, nu, scale=mean / nu)
    return gammainc(looks, looks * intensity / np.maximum(texture, 1e-300)).mean(-1)


_FITTERS = {"rayleigh": fit_rayleigh, "weibull": fit_weibull, "lognormal": fit_lognormal, "gamma": fit_gamma, "k": fit_k}


def fit(family: str, amplitude: np.ndarray, weights: np.ndarray | None = None) -> AmplitudeFit:
    """Fit the law named `family` (one of FAMILIES; K with one look) to amplitudes."""
    if family not in _FITTERS:
        raise InputError(f"amplitude fit: unknown law {family!r}; use one of {', '.join(FAMILIES)}.")
    return _FITTERS[family](amplitude, weights)


def fit_histogram(family: str, counts: np.ndarray) -> AmplitudeFit:
    """Fit a law to an 8-bit histogram [256], amplitude = level/255; level 0 counts as half a level times exp(-1/2)."""
    counts = np.asarray(counts, dtype=np.float64)
    if counts.shape != (256,):
        raise InputError(f"amplitude fit: histogram of shape {counts.shape}, (256,) expected; sum over images first.")
    levels = np.concatenate([[0.5 * np.exp(-0.5)], np.arange(1, 256)]) / 255.0
    return fit(family, levels, counts)


def goodness(model: AmplitudeFit, counts: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance (0 to 1) of an 8-bit histogram [256] to a fitted law.

    Compared at the upper edges of the levels except the last, which also holds every clipped amplitude.
    """
    counts = np.asarray(counts, dtype=np.float64)
    edges = (np.arange(255) + 0.5) / 255.0
    return float(np.abs(np.cumsum(counts)[:-1] / counts.sum() - model.cdf(edges)).max())
