# Draws docs/images/accuracy.png: standoff evaluate dock/val --task metres --json > readings.json;
# python3 docs/images/accuracy.py readings.json docs/images/accuracy.png (needs matplotlib).
import json,sys
import matplotlib; matplotlib.use('Agg')
import matplotlib.pyplot as plt
m=json.load(open(sys.argv[1]))['metres']
kinds=['forklift to edge','person to edge','forklift to person']
fig,ax=plt.subplots(1,3,figsize=(12,4.4),sharey=True)
for a,k in zip(ax,kinds):
    rs=[r for r in m['readings'] if r['pair']==k and not r['cut']]
    for r in rs:
        if r['true_m'] is None: continue
        if r['measured_m'] is None:
            a.plot(r['true_m'],-0.6,'x',color='0.45',ms=6,clip_on=False); continue
        lo,hi=r['interval_m']; ok=lo<=r['true_m']<=hi
        c='tab:blue' if ok else 'tab:red'
        a.plot([r['true_m']]*2,[lo,hi],color=c,lw=1,alpha=.8)
        a.plot(r['true_m'],r['measured_m'],'o' if r['right_things'] else 's',color=c,ms=4,mfc=c if r['right_things'] else 'w')
    a.plot([0,12.5],[0,12.5],color='0.6',lw=.8,zorder=0)
    a.set_title(k,fontsize=11); a.set_xlabel('true distance, m'); a.set_xlim(-.3,13.4); a.set_ylim(-1,13)
    a.grid(alpha=.25)
ax[0].set_ylabel('measured distance with its 95 % interval, m')
from matplotlib.lines import Line2D
h=[Line2D([],[],marker='o',color='tab:blue',ms=4,lw=1,label='the interval holds the truth'),Line2D([],[],marker='o',color='tab:red',ms=4,lw=1,label='it does not'),Line2D([],[],marker='s',mfc='w',color='tab:blue',ms=4,lw=0,label='another thing was measured'),Line2D([],[],marker='x',color='0.45',lw=0,label='missed')]
ax[2].legend(handles=h,fontsize=8,loc='upper left')
fig.tight_layout(); fig.savefig(sys.argv[2],dpi=80)
