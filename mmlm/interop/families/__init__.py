"""The families of checkpoints: model_type in config.json -> what describes such a folder, and what writes one."""

FAMILIES: dict[str, str] = {
    "blip-2": "blip:blip2",
    "instructblip": "blip:instructblip",
    "instructblipvideo": "blip:instructblipvideo",
    "llava": "llava:describe",
    "video_llava": "video_llava:describe",
}

# What can be written, nearest first where two are as near: model_type -> its publisher.
EXPORTS: dict[str, str] = {
    "llava": "llava_export:Llava",
    "blip-2": "blip_export:Blip2",
    "instructblip": "blip_export:InstructBlip",
    "instructblipvideo": "blip_export:InstructBlipVideo",
    "video_llava": "video_llava_export:VideoLlava",
}

# Named, so that the refusal can say what is missing.
NOT_YET: dict[str, str] = {
    "idefics": "its LLM has rows for new words beside its own and an attention mask for each picture",
    "llava_next": "its pictures are cut into tiles of any resolution with learned line ends (image_newline)",
    "llava_onevision": "its pictures are cut into tiles of any resolution with learned line ends (image_newline)",
    "qwen2_audio": "a sound gives as many tokens as it is long, where ours give a fixed number for each window",
}
