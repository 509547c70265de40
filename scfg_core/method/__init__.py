"""The paper (Shen et al., CVPR 2024, arXiv 2404.05384), one file per stage, and nothing else.

    attention     Eq. 8        S = softmax(Qₛ Kₛᵀ/√d), C = softmax(Q_c K_cᵀ/√d), mean over heads
    propagation   Eq. 10       C̄ = (1/R) Σ_{r=1..R} Sʳ C
    fusion                     C̄ = mean over layers, on the largest grid
    assign        Eq. 9        i_s = argmax_i C̄[s, i] / mean_s'(C̄[s', i])
    foreground    Eq. 14       m_b[s] = Ĉ_START[s] < Ĉ_rest[s], in the unconditional rows
    guidance      Eq. 13, 12   γ_i/γ = mean_{m_b}(η) / mean_{m_i}(η);  ε̂ = ε_∅ + γ_i ⊙ (ε_c − ε_∅)

`segment` runs the first five on stored maps, `entries` lets several prompts share an image, `settings` holds every
constant. Pure functions of tensors: no host, no state, no wait for the device.
"""
