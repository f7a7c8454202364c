"""Formulae in TeX, as text that can be read; whatever else people write between dollar signs stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyfeed.retrieval.formula import readable
from whyfeed.retrieval.post import Post


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"What is $|\Psi_0\rangle$?", "What is |Ψ_0⟩?"),
        (r"the $R_{zz}$ gate on $n$ qubits", "the R_zz gate on n qubits"),
        (r"when $a^{r/2} =-1 \mod N$", "when a^(r/2) =-1 mod N"),  # an exponent does not run into what follows
        (r"Obtaining $e^{-i\Delta t Z}$", "Obtaining e^(-iΔt Z)"),
        (r"$$2^{2^{n+1}}$$", "2^(2^(n+1))"),
        (r"$\frac{a+b}{c}$ of $\frac12$ and $\frac{1}{\sqrt{2}}$", "(a+b)/c of 1/2 and 1/√(2)"),
        (r"$\operatorname{Tr}(\rho)$ in $\mathbb{C}^2\otimes\mathcal{H}_A$", "Tr(ρ) in ℂ^2⊗ℋ_A"),
        (r"$\vert 0 \rangle \langle 0 \vert + \vert 1 \rangle$", "|0⟩⟨0| + |1⟩"),
        (r"$ |0\rangle $ costs $5 and $n$ more", "|0⟩ costs $5 and n more"),
        (r"$\{a, b\}$ and $[[n, k, d]]$", "{a, b} and [[n, k, d]]"),
    ],
)
def test_formulae_are_shown_in_unicode(text: str, shown: str) -> None:
    assert readable(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "a $1,000 bottle of wine",
        "costs $5 and $10, or $5-$10, or $5k-$10k",
        "~$500, $",
        "${HOME} and ${PATH}, `${window.x=1}`",
        "echo $HOME_DIR and $PATH_X",
        "no dollar at all: x^{2}",
        r"broken: $\frac{1$ and " + "$" + "{" * 250 + "$",
        "$" + r"\sqrt" * 50 + "$",
    ],
)
def test_money_and_what_cannot_be_read_stay_as_they_are(text: str) -> None:
    assert readable(text) == text


@given(st.text(alphabet=st.sampled_from("$\\{}^_ab1 \n%&~frac[]"), max_size=200))
def test_no_text_is_too_wild(text: str) -> None:
    shown = readable(text)
    assert isinstance(shown, str)
    assert bool(shown.strip()) or not text.strip()


def test_a_post_is_called_by_its_title_as_it_is_read_and_exported_as_it_was_written() -> None:
    post = Post(id="p", title=r"What is $|\Psi_0\rangle$?")
    assert post.label == "What is |Ψ_0⟩?"
    assert post.to_row()["title"] == r"What is $|\Psi_0\rangle$?"
    assert Post(id="p", text=r"Let $\psi$ be a state").label == "Let ψ be a state"
