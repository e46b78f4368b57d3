"""Stage 1: from counting bytes to a network that computes its gradients and learns from them, in NumPy."""

from typing import TYPE_CHECKING

from groundwork.front_door import open_front_door

if TYPE_CHECKING:
    from neural_networks.backpropagation import Tensor as Tensor, no_grad as no_grad
    from neural_networks.corpora import load_corpus as load_corpus
    from neural_networks.corpus import Corpus as Corpus
    from neural_networks.gradient_checking import check_gradients as check_gradients
    from neural_networks.kneser_ney import KneserNeyModel as KneserNeyModel
    from neural_networks.mlp_numpy import MLP as MLP, MLPConfig as MLPConfig
    from neural_networks.mlp_pytorch import TorchMLP as TorchMLP
    from neural_networks.ngram import BigramModel as BigramModel
else:
    __getattr__, __dir__, __all__ = open_front_door(
        __name__,
        {
            "backpropagation": ("Tensor", "no_grad"),
            "corpora": ("load_corpus",),
            "corpus": ("Corpus",),
            "gradient_checking": ("check_gradients",),
            "kneser_ney": ("KneserNeyModel",),
            "mlp_numpy": ("MLP", "MLPConfig"),
            "mlp_pytorch": ("TorchMLP",),
            "ngram": ("BigramModel",),
        },
    )
