"""Where the weights of a T5 live on a mesh, by parameter path; see `parallel.rules`.

Splitting heads, feed-forward widths and the vocabulary leaves one sum over `model` a block and
direction (Megatron-LM: Shoeybi et al. 2019, arXiv:1909.08053, section 3), and nothing to exchange
over `data` but the prompt's gradient.
"""

from jax_prompt.parallel.rules import Rule

_LAYERS = '(encoder|decoder)/layers'
_ATTENTION = f'{_LAYERS}/(self|cross)_attention'

RULES = (
    Rule('token_embedder/embedding', 'VD', model='V', data='D'),
    Rule('lm_head/kernel', 'DV', model='V', data='D'),
    Rule(f'{_ATTENTION}/(query|key|value)/kernel', 'NDHK', model='H', data='D'),
    Rule(f'{_ATTENTION}/out/kernel', 'NHKD', model='H', data='D'),
    Rule(f'{_LAYERS}/feed_forward/(wi|wi_0|wi_1)/kernel', 'NDF', model='F', data='D'),
    Rule(f'{_LAYERS}/feed_forward/wo/kernel', 'NFD', model='F', data='D'),
    # A few thousand numbers: a copy on every device costs less than any exchange.
    Rule(f'({_ATTENTION}|{_LAYERS}/feed_forward)/norm/scale', 'ND'),
    Rule('(encoder|decoder)/final_norm/scale', 'D'),
    # Small too, but the biases that are made of them, [1, H, S, S], are not: with heads.
    Rule('(encoder|decoder)/relative_bias/embedding', 'XH', model='H'),
    Rule(f'{_LAYERS}/self_attention/relative_bias/embedding', 'NXH', model='H'),
)
