"""What diffusers loads as `custom_pipeline`: the class itself is in the package diffusers-sr."""

# diffusers gives every local folder the same module, and finds two pipelines if the last one's class is still there.
for _name in [name for name in globals() if name.endswith("Pipeline")]:
    del globals()[_name]

try:
    from diffusers_sr.one_step.pipeline import OneStepPipeline
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}. This pipeline needs diffusers-sr: `pip install diffusers-sr`.") from error

__all__ = ["OneStepPipeline"]
