import sys, tempfile, pathlib, warnings, torch, time
torch.set_num_threads(1)
from cases import *; from weights import *; from references import *; from selfcheck import *
for c in MODEL_CASES + (CHAT_CASE,):
    if len(sys.argv)>1 and c.name not in sys.argv[1:]: continue
    t=time.time()
    d=pathlib.Path(tempfile.mkdtemp())/c.name
    try:
        save_model(c,d); r=make_reference(c,d); t2=time.time()
        e,m=check_folder(d,r)
    except Exception as e:
        print(c.name,"FAIL",repr(e)[:600]); continue
    print(f"{c.name:24} {sum(f.stat().st_size for f in d.iterdir())//1024:4}K err {e:.1e} effect {m:.3f} margin {r['min_margin']:.4f} std {r['logprob_std']:.2f} noise {r['cache_noise']:.2e} distinct {[len(set(p['greedy_token_ids'])) for p in r['prompts']]} att {[p['attempt'] for p in r['prompts']] if 0 else ''} {t2-t:.1f}s {time.time()-t2:.1f}s",)
