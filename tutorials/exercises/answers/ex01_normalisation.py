import numpy as np


def normalise(waveform: np.ndarray, eps: float = 1e-7) -> np.ndarray:
    waveform = np.asarray(waveform, np.float32)
    centred = waveform - np.mean(waveform)
    variance = np.mean(centred**2)
    return centred / (variance + eps) ** 0.5
