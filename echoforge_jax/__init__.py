"""EchoForge in JAX: semi-supervised left-ventricle segmentation of echo video.

The package is laid out in the order in which data flows: `phantom` makes
synthetic patients, `data` turns raw datasets into batches, `models` maps clips
to masks, `training` and `parallel` fit them, `evaluation` scores them and
`inference` serves them. `commands` holds one file a command-line verb.
"""

__version__ = '0.1.0'
