import numpy as np


def dtw(cost):
    T, S = cost.shape
    total = {(-1, -1): 0.0}
    before = {}
    for t in range(T):
        for s in range(S):
            ways = [(t - 1, s - 1), (t - 1, s), (t, s - 1)]
            ways = [way for way in ways if way in total]
            cheapest = min(ways, key=lambda way: total[way])
            total[t, s] = cost[t, s] + total[cheapest]
            before[t, s] = cheapest
    cell, path = (T - 1, S - 1), []
    while cell != (-1, -1):
        path.append(cell)
        cell = before[cell]
    return np.array(path[::-1])
