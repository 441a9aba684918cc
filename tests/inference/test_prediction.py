"""What an answer holds."""

from jax_prompt.inference.prediction import Prediction


def test_a_prediction_says_what_it_holds():
    assert Prediction('yes').to_dict() == {'prediction': 'yes'}
    assert Prediction('no', {'no': -1.0}, {'no': 1.0}).to_dict() == {
        'prediction': 'no', 'scores': {'no': -1.0}, 'probabilities': {'no': 1.0}}
