"""Puts the first and the last video of a run side by side into benchmarks/lander.gif: before and after training.

python ppo_discrete.py --total-timesteps 250000 --capture-video
python benchmarks/lander_gif.py runs/LunarLander-v3__ppo_discrete__1__*
"""

import sys
from pathlib import Path

from moviepy import CompositeVideoClip, TextClip, VideoFileClip, clips_array
from moviepy.video.fx import Freeze


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folders = sorted(Path(sys.argv[1], "videos").glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
    if not folders:
        sys.exit(f"error: {sys.argv[1]} has no videos; train with --capture-video")
    clips = [VideoFileClip(next(folder.glob("*.mp4"))).resized(width=320) for folder in (folders[0], folders[-1])]
    duration = max(clip.duration for clip in clips) + 1  # the last picture stands still for a second or more
    # A little before the end: the very last frame of an mp4 cannot always be read.
    clips = [
        clip.with_effects([Freeze(clip.duration - 0.1, freeze_duration=duration - clip.duration)]) for clip in clips
    ]
    last_step = int(folders[-1].name.split("-")[1])
    for number, text in enumerate(["before training", f"after {last_step:,} steps"]):
        label = TextClip(text=text, font_size=16, color="black", margin=(8, 8), duration=duration)
        clips[number] = CompositeVideoClip([clips[number], label.with_position(("left", "bottom"))])
    clips_array([clips]).write_gif(Path(__file__).parent / "lander.gif", fps=12, logger=None)


if __name__ == "__main__":
    main()
