"""Which test walks the remedy of which message, and which remedies cannot be walked here, with the reason.

Each key is a part of the message as it stands in the source. A message that is in no table fails
``tests/project/test_remedies.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

_T = "tests/project/test_remedies_training.py::"
_E = "tests/project/test_remedies_evaluation.py::"
_L = "tests/project/test_remedies_loader.py::"
_S = "tests/project/test_remedies_settings.py::"
_H = "tests/project/test_remedies_hub.py::"
_C = "tests/project/test_remedies_conversion.py::"
_B = "tests/project/test_remedies_beginning.py::"
_X = "tests/project/test_remedies_export.py::"
_W = "tests/project/test_remedies_slots.py::"
_A = "tests/training/app/"
_OPENED = f"{_A}test_opening.py::test_wrong_settings_are_told_together"
_JUDGE = f"{_A}test_opening.py::test_a_detector_belongs_to_one_concept"
_PORT = "tests/training/cli/test_app.py::test_a_port_that_is_taken_is_told_before_anything_is_loaded"
_M = "tests/training/worlds/emoji/"
_P = "tests/training/worlds/pretrain/test_build.py"
_GRACE = "tests/training/methods/test_s_grace.py::test_no_retain_prompts_are_refused_before_anything_is_trained"
_HIRM = "tests/training/methods/test_hirm.py::test_a_semantic_target_needs_an_anchor"
_CERTIFY = "tests/training/cli/test_certify.py::"
_EMOJI = "tests/training/cli/test_emoji_base.py::"
_OWN = "tests/training/cli/test_train_bases.py::"
_CERTIFIED = "tests/training/evaluation/certificate/test_certify.py::"
_CONTRADICT = f"{_S}test_settings_that_contradict_each_other"
_FIT = f"{_S}test_settings_that_do_not_fit_the_run"
_FACTS = f"{_C}test_facts_that_publishing_needs"
_FUSED = f"{_L}test_fused_projections_and_overlays"
_COMPARISON = "tests/training/comparison/test_compare.py::"
_COMPARED = f"{_COMPARISON}test_what_a_refusal_names_works"
_REUSED = f"{_COMPARISON}test_numbers_of_the_same_suite_are_reused_and_others_are_refused"
_OF_EVALUATION = f"{_E}test_options_of_an_evaluation"

WALKED: Mapping[str, str] = {
    "expected the folder of an encoder with --record": f"{_CERTIFY}test_what_cannot_work_is_refused",
    "expected --detector for the base": f"{_CERTIFY}test_a_base_of_ones_own_needs_a_detector",
    "at least 1 retain prompt, found none: give captions without the concept": _GRACE,
    "for target 'anchor', found none: give the anchor": _HIRM,
    "A certificate of other weights is left out": f"{_CERTIFIED}test_a_certificate_of_other_weights_is_refused",
    "of another configuration than that of": f"{_CERTIFIED}test_an_adapter_with_another_configuration_loses_it",
    "A certificate cannot be read": f"{_CERTIFIED}test_a_damaged_record_leaves_the_rest_of_the_card",
    "expected encoders made from the base": f"{_EMOJI}test_an_encoder_of_the_world_is_refused_on_the_other_base",
    "; leave --family out, or name another --base": f"{_OWN}test_base_and_family_name_one_world",
    "name a base of the family": f"{_OWN}test_a_file_of_another_family_is_refused_on_an_embedded_base",
    "leave --benchmark out, or": f"{_EMOJI}test_base_and_benchmark_follow_from_each_other_and_from_the_names",
    "leave --base out, or write": f"{_EMOJI}test_what_does_not_fit_is_refused",
    "withdrawn numbers that are left out": "tests/loader/cli/test_main.py::"
    "test_info_counts_withdrawn_numbers_and_json_has_them",
    "expected an encoder, found the name": "tests/training/evaluation/test_preflight.py::"
    "test_a_name_in_place_of_an_encoder",
    # the page
    "name them, for example `robust-encoders app": _OPENED,
    "leave --workers out": _OPENED,
    "leave --steps out": _OPENED,
    "expected encoders of one concept beside --detector": _JUDGE,
    "draws from a prompt alone": f"{_A}test_opening.py::test_a_pipeline_that_needs_a_picture_is_refused",
    "Start the page with --detector": f"{_A}test_trials.py::test_another_base_needs_the_name_of_a_judge",
    "pass another one as --port": _PORT,
    "pass another --port, for example": _PORT,
    # comparisons
    "expected --modules of": _COMPARED,
    "expected --methods of": _COMPARED,
    "or leave --modules out": _COMPARED,
    "-METHOD for --methods": _COMPARED,
    "expected a finished evaluation with --reuse": _REUSED,
    "expected evaluations that stand for a row": _REUSED,
    "run it again with --methods": f"{_COMPARISON}test_rows_under_other_conditions_are_left_out",
    "expected a benchmark for the base": _COMPARED,
    # what is asked at the beginning
    "P.from_pretrained({where}).save_pretrained": f"{_B}test_a_base_with_pickles",
    "found pickles alone for": f"{_B}test_a_base_with_pickles",
    "expected weights of one variant": f"{_B}test_a_base_of_several_variants",
    "expected a token with write permission": f"{_B}test_a_push_without_a_token",
    "no pins apply": f"{_B}test_a_folder_of_pins_that_may_not_be_entered",
    "this user has no home directory": f"{_B}test_a_user_without_a_folder_of_his_own",
    "expected a folder that can be written": f"{_B}test_a_user_without_a_folder_of_his_own",
    "expected folders of finished evaluations with --beside": f"{_B}test_a_report_beside_an_unfinished_evaluation",
    "several concepts are --concept": f"{_B}test_several_concepts_in_one_word",
    "write --also {}": f"{_B}test_several_words_in_one_value",
    "write --synonyms {}": f"{_B}test_several_words_in_one_value",
    "write --words {}": f"{_B}test_lists_of_a_benchmark_in_one_value",
    "write --categories {}": f"{_B}test_lists_of_a_benchmark_in_one_value",
    "expected a file name after --csv": f"{_B}test_a_folder_in_place_of_a_table",
    "expected a file name after --mma-csv": "tests/training/cli/test_results.py::test_a_file_of_prompts_needs_a_name",
    "expected one --config": f"{_B}test_files_of_settings",
    "expected a file after --config": f"{_B}test_files_of_settings",
    "expected another file than that of --config": f"{_B}test_files_of_settings",
    "train NAME --write-config FILE writes one": f"{_B}test_files_of_settings",
    "expected UTF-8 in {path}, found byte": f"{_B}test_captions_of_windows",
    "which reads like a list": f"{_B}test_a_concept_that_reads_like_a_list",
    "expected folders of evaluations with --reuse": f"{_B}test_parts_of_another_evaluation",
    "choose another folder with --out": f"{_B}test_a_second_judgement_in_a_place_that_is_taken",
    "names of their own for --out": f"{_B}test_a_second_judgement_in_a_place_that_is_taken",
    # export
    "pass your own checkpoint, a single .safetensors file, by --into": f"{_X}test_an_application_that_needs_a_base",
    "with a model_index.json, by --into": f"{_X}test_an_application_that_needs_a_base",
    "leave --into out": f"{_X}test_an_application_without_a_base",
    "pass --force to replace an earlier export": f"{_X}test_a_file_that_is_there",
    # two text encoders
    "expected the only text encoder of a pipeline for": f"{_W}test_the_second_encoder_for_another_application",
    "or a base of SDXL": f"{_W}test_a_component_that_the_base_lacks",
    "as the manifest records, found a": f"{_W}test_a_component_that_the_base_lacks",
    "pass backbone.given": f"{_W}test_a_backbone_of_the_other_encoder",
    "make it by backbone_of": f"{_W}test_a_backbone_of_the_other_encoder",
    # commands of training
    "expected a finite loss": f"{_T}test_a_run_that_diverged",
    "expected texts, found the name of a file": "tests/training/cli/test_spelling.py::"
    "test_a_file_where_texts_belong_is_refused",
    "leave --concept out to look for": "tests/training/cli/test_spelling.py::"
    "test_another_concept_than_the_erased_one_is_said",
    "expected a finite denoising loss": "tests/training/attacks/common/test_denoising.py::"
    "test_weights_beyond_half_precision_are_attacked_in_single_precision",
    "expected a checkpoint of this run": f"{_T}test_a_checkpoint_of_other_settings",
    "expected a bank of this base and schedule": f"{_T}test_a_damaged_bank",
    "range of half precision (at most 65504)": f"{_T}test_a_guidance_beyond_half_precision",
    "expected finite gradients from the UNet in fp16": f"{_T}test_gradients_beyond_half_precision",
    "needs --base: a folder, or a Hub id": f"{_T}test_an_option_that_is_missing",
    "--base needs --family": f"{_T}test_an_option_that_is_missing",
    "--base needs --kind": f"{_T}test_an_option_that_is_missing",
    "expected a retain term for --retain-prompts": f"{_T}test_retain_prompts_without_a_term",
    "expected a method with an inner attack": f"{_T}test_an_inner_attack_for_a_method_without_one",
    "expected names of recipes after --also": f"{_T}test_further_concepts_on_a_base_of_ones_own",
    "expected captions with the concept in Concept.prompts": f"{_T}test_des_without_captions",
    "safe prompts, found": f"{_T}test_des_without_captions",
    "expected the base that the manifest records": f"{_T}test_reproduce_on_another_base",
    "without --no-resume,": f"{_T}test_a_run_that_was_stopped",
    "folder with --out, or delete the file": f"{_M}"
    "test_measure.py::test_a_measurement_goes_on_with_the_sets_that_are_missing",
    "name the packages by --sources": f"{_M}test_measure.py::test_the_command_writes_record_and_sheet",
    "fetch them by `robust-encoders emoji": f"{_M}test_packages.py::test_the_command_that_the_error_names_fetches",
    "found others; choose another folder with --work": f"{_M}test_build.py::test_a_folder_begun_with_other_sources",
    "behind {finished}; delete": f"{_P}::test_parts_of_another_schedule_are_refused",
    # settings
    "a term on conditionings that uses hardening.eta": _CONTRADICT,
    "expected additions for hardening.vocabulary": _CONTRADICT,
    "expected outliers.alternatives, and": _CONTRADICT,
    "expected attacks through the UNet for unlearn.pull_weight": _CONTRADICT,
    "expected outliers.searched_weight 0": _CONTRADICT,
    "expected language.pool_weight 0": _CONTRADICT,
    "different language.pool_tokens, and": _CONTRADICT,
    "expected language.pool of at least": _CONTRADICT,
    "expected attacks through the UNet for adversary.shared": _CONTRADICT,
    "conditionings beside erase_from": _CONTRADICT,
    "a start with ESD's term on the concept's own prompts": _CONTRADICT,
    "expected no gradient surgery, found": _CONTRADICT,
    "expected bank.mode 'bank' beside rollout": _CONTRADICT,
    "expected texts='words' together with attributes": _CONTRADICT,
    "expected safe prompts together with target": _CONTRADICT,
    "bank.mode fresh (pictures are drawn once)": _CONTRADICT,
    "bank.seeds (set pictures)": _CONTRADICT,
    "train.precision fp16 (choose bf16, because fp16 scales": _CONTRADICT,
    "or raise train.iterations": _CONTRADICT,
    "beside no preserving loss": _CONTRADICT,
    "retain.space (choose noise)": _FIT,
    "unlearn.plain_space (choose noise)": _FIT,
    "train.precision fp16 (choose bf16: loss scaling": _FIT,
    "expected two losses for gradient surgery": _FIT,
    "for hardening.eta, found none": _FIT,
    "expected a method of two losses for gradient surgery": _FIT,
    "among outliers.alternatives": _FIT,
    "expected outliers.searched_tokens of at most": _FIT,
    "or lower outliers.inserted_tokens": _FIT,
    "or lower hardening.additions": _FIT,
    "expected retain prompts with words in the place of": f"{_S}test_words_in_the_place_of_the_concept",
    "expected retain prompts for language.pairs_weight": f"{_S}test_words_in_the_place_of_the_concept",
    "room for two words in the concept's place": f"{_S}test_words_in_the_place_of_the_concept",
    "expected language.pool_tokens of at most": f"{_S}test_a_pool_that_fits_a_prompt",
    "expected retain prompts, found none: give retain.prompts": f"{_E}test_retain_prompts_in_python",
    "retain=RetainConfig(prompts=...)": f"{_E}test_retain_prompts_in_python",
    "hardening.neighbours_weight and outliers.off_manifold_weight": f"{_E}test_prompts_without_the_concept",
    "expected retain prompts for hardening.neighbours_weight": f"{_E}test_prompts_without_the_concept",
    # evaluation
    "expected folders of encoders with --record": _OF_EVALUATION,
    "with --record, found one of another concept": _OF_EVALUATION,
    "whose folders in --out have names of their own": _OF_EVALUATION,
    "found none; add --concept": _OF_EVALUATION,
    "evaluate them apart, or name one": _OF_EVALUATION,
    "expected one concept to look for, found an encoder": _OF_EVALUATION,
    "expected --base with --prompts": _OF_EVALUATION,
    "expected an evaluation of the same base in": f"{_E}test_strength_and_numbers_of_an_evaluation",
    "robust-encoders evaluate FOLDER --record": f"{_E}test_strength_and_numbers_of_an_evaluation",
    "name one of checkable()": f"{_E}test_an_attack_without_a_budget",
    "base=Backbone.from_pipeline(pipe)": f"{_E}test_a_target_without_what_an_attack_uses",
    "give TargetModel(..., query=...)": f"{_E}test_a_target_without_what_an_attack_uses",
    "give TargetModel(..., draft=...)": f"{_E}test_a_target_without_what_an_attack_uses",
    "with output_type='latent'": f"{_E}test_cases_without_reference_latents",
    "expected top or threshold": f"{_E}test_a_rule_of_a_classifier",
    "call update() first": f"{_E}test_metrics_without_pictures",
    "add pictures and references with update()": f"{_E}test_metrics_without_pictures",
    "expected at least subset_size=": f"{_E}test_metrics_without_pictures",
    "use for_concept() or for_retain()": f"{_E}test_numbers_of_seeds_for_each_set",
    # commands of the loader
    "found none; pass --concept, --method, --license or --base": f"{_C}test_annotate_without_facts",
    "which is no ORG/NAME": f"{_C}test_a_base_id_that_is_none",
    "pass --force to replace the artifact": f"{_C}test_a_folder_that_holds_an_artifact",
    "whose facts the catalog states": f"{_C}test_a_copy_from_the_catalog_takes_no_facts",
    "leave out --component": f"{_C}test_a_component_that_is_not_there",
    "convert each by itself with --component": "tests/loader/conversion/test_unet_releases.py::"
    "test_a_unet_and_a_text_encoder_in_one_file_become_two_artifacts",
    "expected no --dtype for": f"{_C}test_a_changed_unet_needs_its_base_and_no_dtype",
    "expected --base PIPELINE_FOLDER for": f"{_C}test_a_changed_unet_needs_its_base_and_no_dtype",
    "state it by --method NAME": f"{_C}test_a_changed_unet_needs_its_base_and_no_dtype",
    "the eraser was trained on as --base": f"{_C}test_erasers_of_another_base",
    "found pickles (": f"{_C}test_pickles_in_a_folder",
    "`fuse_lora` of diffusers": f"{_C}test_a_lora_is_merged_by_diffusers",
    "a program of TorchScript": f"{_C}test_a_program_of_torchscript",
    "expected tensors of one dtype": f"{_C}test_weights_of_two_dtypes",
    "choose --dtype float32 or bfloat16": f"{_C}test_weights_beyond_a_dtype",
    "`robust-encoders convert --config FILE`": "tests/loader/cli/test_trust.py::"
    "test_convert_answers_programs_with_the_manifest",
    "--concept WORDS": _FACTS,
    "--method NAME": _FACTS,
    "--license NAME": _FACTS,
    "`robust-encoders annotate FOLDER {option}`": _FACTS,
    "annotate FOLDER --base PIPELINE_FOLDER --base-id ORG/NAME": _FACTS,
    'concept=Concept(name=..., kind="object")': f"{_C}test_facts_in_python",
    "record the base: `robust-encoders annotate": "tests/loader/cli/test_facts.py::"
    "test_facts_and_base_are_recorded_later",
    "`robust-encoders annotate FOLDER --family NAME`": _FACTS,
    "run `robust-encoders pin --replace` on it": f"{_H}test_a_pin_of_other_files",
    # pipelines
    "expected no robust encoder in pipe": f"{_L}test_an_encoder_in_the_place_of_another",
    "whose absolute values": f"{_L}test_a_delta_in_the_place_of_another",
    "attach it again with transport='paper'": f"{_L}test_fusing_adapters_of_the_official_transport",
    "call pipe.unfuse_qkv_projections() first": _FUSED,
    "its K and V are fused": "tests/loader/overlays/test_projection.py::"
    "test_what_diffusers_fuses_is_refused_and_taken_after_it_is_undone",
    "would have no effect; call pipe.unfuse": _FUSED,
    "fused projections in {slot}": _FUSED,
    "=encoder.text_encoder() instead": f"{_L}test_a_quantised_text_encoder",
    "=encoder.text_encoder(), or with": f"{_L}test_a_text_encoder_whose_weights_cannot_be_read",
    "peft's wrapper is around the text encoder": f"{_L}test_a_wrapper_of_peft",
    "and not to the text encoder": f"{_L}test_tokens_without_vectors",
    "can set the conditioning, whatever the encoder learned: call": "tests/loader/pipeline/test_learned_vectors.py::"
    "test_a_large_vector_is_refused_unless_it_is_accepted",
    "pass allow_large_vectors=True": "tests/loader/pipeline/test_learned_vectors.py::"
    "test_a_large_vector_is_refused_unless_it_is_accepted",
    "pass allow_partial=True": "tests/loader/pipeline/test_pipelines.py::"
    "test_further_encoders_are_refused_unless_accepted",
    "call pipe.unload_lora_weights() first": "tests/loader/pipeline/test_pipelines.py::"
    "test_a_lora_is_refused_until_it_is_unloaded",
    "call pipe.unload_lora_weights()": "tests/loader/pipeline/test_pipelines.py::"
    "test_a_lora_that_came_later_is_reported_and_must_go_first",
    "call pipe.unload_textual_inversion() to remove them": f"{_L}test_learned_tokens",
    "(status with references=True searches": f"{_L}test_a_search_for_references",
    "pass the encoder's own config.to_dict()": f"{_L}test_a_configuration_without_fields",
    # the Hub, clones, device maps
    "the stored token (HF_TOKEN": f"{_H}test_a_stored_token_that_is_none",
    "Copy the token again from": f"{_H}test_a_stored_token_that_is_none",
    "because token=True was passed": f"{_H}test_pulling_without_a_good_token",
    "expected a token that the Hub accepts": f"{_H}test_pulling_without_a_good_token",
    "is gated: accept its terms": "tests/loader/hub/test_upload.py::test_a_gated_repository_says_how_to_enter",
    "or pass token=... if it is private": "tests/loader/hub/test_upload.py::test_a_private_repository_needs_a_token",
    "unset HF_HUB_OFFLINE": f"{_H}test_offline",
    "the Hub forbids {name}": f"{_H}test_what_the_hub_forbids",
    "needs a token; run `hf auth login`": f"{_H}test_pushing_without_a_good_token",
    "a push without a token may not write": f"{_H}test_pushing_without_a_good_token",
    "the Hub does not accept this token": f"{_H}test_pushing_without_a_good_token",
    "this token may not write to": f"{_H}test_pushing_without_a_good_token",
    "or push without private=": f"{_H}test_a_repository_of_another_visibility",
    "set ROBUST_ENCODERS_HOME to a writable folder": f"{_H}test_a_working_folder_that_is_a_file",
    "core.autocrlf false": f"{_H}test_a_clone_with_other_line_ends",
    "for example by `robust-encoders annotate`": f"{_H}test_weights_of_an_earlier_version",
    "undo a device map by pipe.reset_device_map()": f"{_H}test_a_device_map",
    "(pipe.reset_device_map() for a device map)": f"{_H}test_a_device_map",
    "call pipe.reset_device_map()": f"{_H}test_a_device_map",
    "expected equally many open captions for each seed": f"{_E}test_a_pool_with_other_seeds",
}

_HUB = "it needs an answer of the Hub: a repository, a token, a connection"
_SOFTWARE = "it installs or upgrades another package in the environment of the tests"
_PROCESSES = "it needs several processes; tests/training/trainer/test_several_processes.py starts them"
_NONE = "it names nothing to do"
NOT_WALKED: Mapping[str, str] = {
    "goes on where the first one stopped, and may add": "it is a part of the help, and names nothing to do",
    "expected --prompts with a base of your own": "it needs a base of Stable Diffusion, and its prompts",
    "load its text encoder with transformers.CLIPTextModel": _HUB,
    "pip install --upgrade": _SOFTWARE,
    "run `pip install '.[{extra}]'`": _SOFTWARE,
    "run `pip install '{wheel}[{extra}]'`": _SOFTWARE,
    "pip install --no-deps torchattacks": _SOFTWARE,
    "expected the package of the tracker": _SOFTWARE,
    "that can be imported, found one that fails": _SOFTWARE,
    "too many files are open": "it changes the limits of the shell that runs the tests",
    "or it is private; check the spelling, or log in": _HUB,
    "or pass model=PATH": _SOFTWARE,
    "`git lfs pull` in the clone": "it needs a clone of a repository with large files from its server",
    "build your own base again by `robust-encoders emoji build --out FOLDER`": "the build takes hours",
    "train the base with real words from licensed icons": _NONE,
    "processes of WORLD_SIZE": _PROCESSES,
    "the folder of --out": "commands that keep something demand --out, so they end before they can be stopped",
    "writes it into the key and value": _NONE,
    "train the base of coloured shapes from random weights": _NONE,
    "base={self.manifest.base.family}": _NONE,
    "it runs in the ball of norm=": _NONE,
    "`evaluate NAME --help` shows": _NONE,
    "`train NAME --help` shows": _NONE,
    "expected 0 <= successes <= n": _NONE,
    "Registry({self.group}": _NONE,
}
