"""Puts a video of each of two runs side by side into benchmarks/lander.gif: before and after training.

The first run is barely trained, the second one trained. Both show their first evaluation episode, from the same seed.

python ppo_discrete.py --total-timesteps 2048 --eval-episodes 1 --capture-video --exp-name before
python ppo_discrete.py --total-timesteps 250000 --eval-episodes 1 --capture-video --exp-name after
python benchmarks/lander_gif.py runs/LunarLander-v3__before__1__* runs/LunarLander-v3__after__1__*
"""

import sys
from pathlib import Path

import torch
from moviepy import CompositeVideoClip, TextClip, VideoFileClip, clips_array
from moviepy.video.fx import Freeze


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    clips, labels = [], []
    for run_dir in map(Path, sys.argv[1:]):
        step = torch.load(run_dir / "checkpoint.pt", weights_only=True)["global_step"]
        path = run_dir / f"videos-{step}" / "rl-video-episode-0.mp4"
        if not path.exists():
            sys.exit(f"error: there is no {path}; train with --capture-video")
        clips.append(VideoFileClip(path).resized(width=320))
        labels.append(f"after {step:,} steps")
    duration = max(clip.duration for clip in clips) + 1  # the last picture stands still for a second or more
    # A little before the end: the very last frame of an mp4 cannot always be read.
    clips = [
        clip.with_effects([Freeze(clip.duration - 0.1, freeze_duration=duration - clip.duration)]) for clip in clips
    ]
    for number, text in enumerate(labels):
        label = TextClip(text=text, font_size=16, color="black", margin=(8, 8), duration=duration)
        clips[number] = CompositeVideoClip([clips[number], label.with_position(("left", "bottom"))])
    clips_array([clips]).write_gif(Path(__file__).parent / "lander.gif", fps=12, logger=None)


if __name__ == "__main__":
    main()
