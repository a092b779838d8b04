"""An ESPnet model with the square loss, in Python: built, trained for some steps on noise, its probabilities.

python examples/espnet_model.py
"""

import torch
from espnet2.tasks.asr import ASRTask

from sqloss_plugins.espnet import register
from sqloss_plugins.espnet.decoding import log_probability_outputs

TOKENS = ["<blank>", "<unk>", *"ABCDEFGH", "<sos/eos>"]


def build() -> torch.nn.Module:
    register()  # adds the choice of model `sqloss` to ESPnet's
    args = ASRTask.get_parser().parse_args(["--output_dir", "unused"])
    args.token_list, args.input_size, args.normalize = TOKENS, 20, None
    args.model, args.model_conf = "sqloss", {"loss": "square", "ctc_weight": 0.3}  # k and M by the level rule
    args.encoder, args.decoder = "transformer", "transformer"
    args.encoder_conf = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1}
    args.decoder_conf = {"attention_heads": 2, "linear_units": 32, "num_blocks": 1}
    return ASRTask.build_model(args)


if __name__ == "__main__":
    torch.manual_seed(0)
    model = build()
    speech, lengths, text = torch.randn(2, 60, 20), torch.tensor([60, 50]), torch.tensor([[2, 3, 4], [5, 6, -1]])
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(10):
        loss, stats, _ = model(speech, lengths, text, lengths // 20)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step}: CTC {stats['loss_ctc'].item():.2f}, square loss {stats['loss_att'].item():.3f}")
    with log_probability_outputs(model, "square"):  # as beam search sees the decoder; Speech2Text(method="square")
        hidden, hidden_lengths = model.eval().encode(speech, lengths)
        scores, _ = model.decoder(hidden, hidden_lengths, torch.tensor([[10], [10]]), torch.tensor([1, 1]))
    print("log-probabilities of the first token:", scores[0, 0].detach().numpy().round(2))
