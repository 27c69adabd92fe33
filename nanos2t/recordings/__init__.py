"""What recordings really hold: containers, joined streams, damaged ends, channels, pipes.

nanos2t/audio.py makes a waveform of it.
"""
