"""Writes scikit-learn.json: what scikit-learn's encoders make of small columns. python scikit_learn.py > scikit-learn.json"""
import json
import numpy as np
import sklearn
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (FunctionTransformer, MinMaxScaler, OneHotEncoder, OrdinalEncoder, StandardScaler)
from sklearn.utils import murmurhash3_32

rng = np.random.default_rng(7)
plain = np.round(rng.normal(40, 15, 23), 3)
skewed = np.round(rng.lognormal(3, 1.5, 23), 2)
large = np.round(1e6 + rng.normal(0, 1, 23), 6)
constant = np.full(23, 0.1)
gaps = plain.copy(); gaps[[2, 7, 19]] = np.nan
later = np.array([-3.5, 0, 41.25, 1000])
words = rng.choice(['red', 'Blue', 'green', 'émeraude'], 23).tolist()
holes = [None if i in (1, 5) else w for i, w in enumerate(words)]
codes = rng.choice([3, 11, -2], 23).astype(float)

def fit(pipe, column, new=later):
    pipe.fit(column.reshape(-1, 1))
    return {'values': [None if np.isnan(x) else x for x in column.tolist()], 'fit': pipe.transform(column.reshape(-1, 1)).tolist(),
            'new': new.tolist(), 'later': pipe.transform(new.reshape(-1, 1)).tolist()}

def encode(encoder, column, new):
    as_rows = lambda xs: np.array(xs, dtype=object).reshape(-1, 1)
    encoder.fit(as_rows(column))
    return {'values': column, 'fit': encoder.transform(as_rows(column)).tolist(), 'new': new,
            'later': encoder.transform(as_rows(new)).tolist()}

impute = lambda strategy: SimpleImputer(strategy=strategy)
one_hot = lambda: OneHotEncoder(sparse_output=False, handle_unknown='ignore')
log = FunctionTransformer(np.log1p)
cases = {
    'standardize': fit(StandardScaler(), plain),
    'standardize ': fit(StandardScaler(), large),
    'standardize  ': fit(StandardScaler(), constant),
    'min-max': fit(MinMaxScaler(), plain),
    'log1p+standardize': fit(make_pipeline(log, StandardScaler()), skewed, np.array([0.0, 5, 1e6])),
    'fill(mean)+standardize': fit(make_pipeline(impute('mean'), StandardScaler()), gaps),
    'fill(median)+min-max': fit(make_pipeline(impute('median'), MinMaxScaler()), gaps),
    'fill(most-frequent)': fit(impute('most_frequent'), np.append(gaps, [41.5, 41.5])),
    'fill(mean)+log1p+standardize': fit(make_pipeline(impute('mean'), log, StandardScaler()), np.where(np.isnan(gaps), gaps, skewed), np.array([0.0, 5, 1e6])),
    'standardize+min-max': fit(make_pipeline(StandardScaler(), MinMaxScaler()), plain),
    'fill(median,indicator)': fit(SimpleImputer(strategy='median', add_indicator=True), gaps, np.array([1, np.nan, 2.5])),
    'one-hot': encode(one_hot(), words, ['green', 'violet', 'Blue']),
    'one-hot ': encode(one_hot(), holes, ['green', 'violet', None]),
    'one-hot  ': encode(one_hot(), codes.tolist(), [11.0, 4.0]),
    'id': encode(OrdinalEncoder(), words, ['red', 'Blue']),
    'id(unknown=-1)': encode(OrdinalEncoder(handle_unknown='use_encoded_value', unknown_value=-1), words, ['red', 'violet']),
    'hash(1000)': {'values': words, 'fit': [[murmurhash3_32(w, seed=0, positive=True) % 1000] for w in words],
                   'new': ['a', 'ab', 'abc', 'abcd', 'abcde'], 'later': [[murmurhash3_32(w, seed=0, positive=True) % 1000] for w in ['a', 'ab', 'abc', 'abcd', 'abcde']]},
}
for case in cases.values():
    case['new'] = [None if isinstance(x, float) and np.isnan(x) else x for x in case['new']]
print(json.dumps({'version': sklearn.__version__, 'cases': cases}, ensure_ascii=False, allow_nan=False))
