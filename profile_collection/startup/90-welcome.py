"""What is here, and what could not be reached."""

print(f"\ntemline on {config.instrument}: RE, {', '.join(devices)}, bp, bps")
print("Plans: montage, fly_montage, snap, focus_series, autofocus, brightfield, darkfield,")
print("       lens_correction, estimate_montage, resume_montage")
for name, problem in unreachable.items():
    print(f"  NOT REACHED  {name}: {problem}")
if catalog is None:
    print(f"  NOT REACHED  Tiled at {tiled_uri}: runs are kept in {config.tiled.backup}/")
if unreachable or catalog is None:
    print("`temline up` in another terminal starts what is missing; then start this console again.")
print("Example: RE(snap(camera, scope, exposure=0.1))\n")
