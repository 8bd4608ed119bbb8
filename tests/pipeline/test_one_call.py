"""Two calls never depend on each other, a stop is a stop, and threads do not meet."""

import threading

import pytest
import torch
from peft import LoraConfig

from diffusers_sr.image.pixels import read_images
from tests.components import tiny_image
from tests.pipeline.tiny import build, difference, run

AS_TEXTS = {"low_level_prompt_embeds": None, "negative_low_level_prompt_embeds": None}


def unet_calls(pipeline):
    """A list that grows with every call of the UNet."""
    called = []
    pipeline.unet.register_forward_pre_hook(lambda *_: called.append(pipeline.guidance_scale))
    return called


@pytest.mark.parametrize("method", ["coser", "cassr"])
def test_a_stop_during_the_reference_stops_the_call(method):
    pipeline = build(method)
    called = unet_calls(pipeline)
    whole = run(pipeline, method, output_type="latent")
    per_step = len(called) // 4  # two steps of the reference, two of the result
    called.clear()

    def stop(*_):
        pipeline._interrupt = True

    handle = pipeline.unet.register_forward_pre_hook(stop)
    stopped = run(pipeline, method, output_type="latent")
    handle.remove()
    assert len(called) == per_step
    assert pipeline.interrupt
    assert difference(stopped, whole) > 1e-3
    # The stop is that call's: the next is whole.
    assert torch.equal(run(pipeline, method, output_type="latent"), whole)
    assert not pipeline.interrupt


@pytest.mark.parametrize(
    ("method", "own"), [("coser", "reference_guidance_scale"), ("cassr", "activation_guidance_scale")]
)
def test_the_guidance_scale_reads_the_same_in_all_of_a_call(method, own):
    pipeline = build(method)
    called = unet_calls(pipeline)
    run(pipeline, method, guidance_scale=2.0, **{own: 7.0})
    assert set(called) == {2.0}


def test_a_description_does_not_depend_on_the_call_before():
    pipeline = build("xpsr")
    pipeline.text_encoder.add_adapter(
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False), adapter_name="style"
    )
    image, call = read_images(tiny_image()), pipeline.check_inputs(low_level_prompt="noisy")

    def describe():
        with torch.no_grad():
            return pipeline.describe(image, call)[1]["low_level_prompt"]

    first = describe()
    changed = run(pipeline, "xpsr", **AS_TEXTS, low_level_prompt="noisy", cross_attention_kwargs={"scale": 0.0})
    assert difference(changed, run(pipeline, "xpsr", **AS_TEXTS, low_level_prompt="noisy")) > 1e-4
    run(pipeline, "xpsr", **AS_TEXTS, low_level_prompt="noisy", cross_attention_kwargs={"scale": 0.0})
    assert torch.equal(describe(), first)


def test_the_scheduler_remembers_nothing(pipeline, method):
    assert pipeline.scheduler.num_inference_steps is None
    run(pipeline, method)
    assert pipeline.scheduler.num_inference_steps is None


def test_threads_on_one_pipeline_each_get_their_own_result(pipeline, method):
    """Calls of other steps, guidance and images, at the same time."""
    jobs = [
        {
            "seed": seed,
            "image": tiny_image(seed=seed),
            "num_inference_steps": 2 + seed % 2,
            "guidance_scale": 1.0 + seed,
        }
        for seed in range(4)
    ]
    expected = [run(pipeline, method, **job) for job in jobs]
    assert difference(expected[0], expected[2]) > 1e-3
    results: list[torch.Tensor | None] = [None] * len(jobs)
    barrier = threading.Barrier(len(jobs))

    def work(number):
        barrier.wait()
        results[number] = run(pipeline, method, **jobs[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, wanted in zip(results, expected, strict=True):
        assert result is not None and torch.equal(result, wanted)


def test_threads_of_two_pipelines_on_one_unet_each_get_their_own_result():
    first = build("seesr")
    second = build("coser", unet=first.unet)
    expected = run(first, "seesr"), run(second, "coser")
    results: dict[str, list[torch.Tensor]] = {}

    def work(name, pipeline, method):
        for _ in range(3):
            results.setdefault(name, []).append(run(pipeline, method))

    threads = [
        threading.Thread(target=work, args=("first", first, "seesr")),
        threading.Thread(target=work, args=("second", second, "coser")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(result, expected[0]) for result in results["first"])
    assert all(torch.equal(result, expected[1]) for result in results["second"])


def test_a_callback_cannot_call_its_own_pipeline_but_another_on_the_same_unet():
    pipeline = build("seesr")
    other = build("coser", unet=pipeline.unet)
    expected = run(pipeline), run(other, "coser")

    def nested(pipeline, step, timestep, tensors):
        assert torch.equal(run(other, "coser"), expected[1])
        return {}

    assert torch.equal(run(pipeline, callback_on_step_end=nested), expected[0])

    def recursive(pipeline, step, timestep, tensors):
        run(pipeline)
        return {}

    with pytest.raises(RuntimeError, match="by a callback of its own call: use a second pipeline"):
        run(pipeline, callback_on_step_end=recursive)
    assert torch.equal(run(pipeline), expected[0])
