"""torchvision's ResNet-18 from random weights on one fold, for a given CPU time.

Needs torch and torchvision alone, so that it can run in an environment of its own:

    python benchmarks/resnet18_fold.py FOLD.npz --cpu_seconds 300 --out OUT.npz

FOLD.npz holds images (uint8 [n, 110, 110]), hemorrhage, location (-1: none), side ('train', ...)
and order (training indices, replicated to balance the classes as the paper does). The same two MLP
heads, loss, rotation, sharpness and flip as the ViT; AdamW at torch's usual rate of 1e-3, cosine.
"""

import argparse
import sys
import time
import types

import numpy as np
import torch
import torch.nn.functional as F

# A torchvision without its compiled operators fails on their registration; none is needed here.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("_meta_registrations")

from torchvision.models import resnet18  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

SIZE, BATCH = 96, 64


class DualTask(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = resnet18(weights=None)
        d = self.encoder.fc.in_features
        self.encoder.fc = torch.nn.Identity()

        def head(classes):
            return torch.nn.Sequential(
                torch.nn.Linear(d, d // 2),
                torch.nn.ReLU(),
                torch.nn.Dropout(0.1),
                torch.nn.Linear(d // 2, classes),
            )

        self.hemorrhage, self.location = head(2), head(3)

    def forward(self, x):
        features = self.encoder(x)
        return self.hemorrhage(features), self.location(features)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fold")
    parser.add_argument("--cpu_seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    data = np.load(args.fold)
    images = torch.from_numpy(data["images"])[:, None].expand(-1, 3, -1, -1)
    hemorrhage, location = torch.from_numpy(data["hemorrhage"]), torch.from_numpy(data["location"])
    order = data["order"]
    crop = v2.CenterCrop(SIZE)
    augment = v2.Compose(
        [
            crop,
            v2.RandomHorizontalFlip(0.5),
            v2.RandomRotation(15),
            v2.RandomAdjustSharpness(2, 0.5),
        ]
    )
    model = DualTask()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    start = time.process_time()
    place, shuffled, steps = len(order), order, 0
    model.train()
    while (spent := time.process_time() - start) < args.cpu_seconds:
        if place + BATCH > len(order):
            place, shuffled = 0, rng.permutation(order)
        chosen = torch.from_numpy(shuffled[place : place + BATCH])
        place += BATCH
        x = torch.stack([augment(image) for image in images[chosen]]).float() / 127.5 - 1
        rate = 0.5 * (1 + np.cos(np.pi * spent / args.cpu_seconds))
        optimizer.param_groups[0]["lr"] = 1e-3 * rate * min(1, (steps + 1) / 20)
        logits = model(x)
        loss = F.cross_entropy(logits[0], hemorrhage[chosen].long())
        ich = hemorrhage[chosen] == 1
        if ich.any():
            loss = loss + F.cross_entropy(logits[1][ich], location[chosen][ich].long())
        optimizer.zero_grad()
        (0.5 * loss).backward()
        optimizer.step()
        steps += 1
    model.eval()
    test = np.flatnonzero(data["side"] == "test")
    with torch.no_grad():
        x = torch.stack([crop(images[i]) for i in test]).float() / 127.5 - 1
        logits = model(x)
    np.savez(
        args.out,
        test=test,
        p_hemorrhage=logits[0].softmax(1)[:, 1].numpy(),
        p_location=logits[1].softmax(1).numpy(),
        steps=steps,
        epochs=steps * BATCH / len(order),
        cpu_seconds=time.process_time() - start,
    )


if __name__ == "__main__":
    main()
