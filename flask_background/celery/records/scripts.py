"""The changes that Redis makes to records in one step, in Lua.

Under the prefix P lie ``item:ID``, the record of an item, a hash; ``key:NAME``, the id of the item that has
the key; ``end:ID``, for a minute after an item's end, a list that its waiters read; and for each HOME, the
name of an app:

- ``HOME:sent:QUEUE``, the queued items whose message was sent through this queue, by the time of that;
- ``HOME:due``, the queued items for which a message is to be sent, by the time from when on. Those that have
  a field ``resent`` have had their turn, as their first message was lost or their run was cut;
- ``HOME:runs``, the running items, by the time from when on a run without a sign of life counts as dead;
- ``HOME:queues``, the names of the queues; ``HOME:progress``, by queue when the latest of the items that have
  started was sent;
- ``HOME:reconciler``, the worker that looks after all that, for a moment; ``HOME:looks``, since when workers
  look without a gap, and when the last look was.

An item that has not ended is in one of the first three sets. Times are those of Redis' own clock, so no
machine's clock is compared with another's. A script may be asked twice, as its first answer may be lost: then
the second answer is the same.
"""

_NOW = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
"""

# Gets P, the id, HOME, the queue, the key, whether the message follows, when the item is due, until when the
# answer is waited for, and fields and values. Returns the id of whoever has the key, or "late": nobody waits
# for the answer any more, so the item is not accepted. Enqueueing waits for this one, so it is short.
PUT = f"""{_NOW}
local P, id, home, queue, key, follows, due = unpack(ARGV, 1, 7)
local item = P .. 'item:' .. id
if redis.call('EXISTS', item) == 1 then return false end
if now > tonumber(ARGV[8]) then return 'late' end
if key ~= '' then
    local holder = redis.call('GET', P .. 'key:' .. key)
    local status = holder and redis.call('HGET', P .. 'item:' .. holder, 'status')
    if status == 'queued' or status == 'running' then return holder end
    redis.call('SET', P .. 'key:' .. key, id)
end
redis.call('HSET', item, 'queued', now, unpack(ARGV, 9))
if follows == '1' then
    redis.call('ZADD', P .. home .. ':sent:' .. queue, now, id)
    redis.call('SADD', P .. home .. ':queues', queue)
else
    redis.call('ZADD', P .. home .. ':due', due, id)
end
return false
"""

# Of one item. Each of the following scripts gets P, the item's id, and more.
_ITEM = f"""{_NOW}
local P, id = ARGV[1], ARGV[2]
local item = P .. 'item:' .. id
local function get(field) return redis.call('HGET', item, field) end
local function put(...) redis.call('HSET', item, ...) end
local home, queue = get('home') or '', get('queue') or ''
local runs, due, sent = P .. home .. ':runs', P .. home .. ':due', P .. home .. ':sent:' .. queue
local function leave_sets()
    for _, set in ipairs({{runs, due, sent}}) do redis.call('ZREM', set, id) end
end
local function release_key()
    local key = P .. 'key:' .. (get('key') or '')
    if redis.call('GET', key) == id then redis.call('DEL', key) end
end
local function finish(keep)
    leave_sets()
    release_key()
    put('finished', now)
    redis.call('HDEL', item, 'payload')
    redis.call('EXPIRE', item, keep)
    redis.call('RPUSH', P .. 'end:' .. id, 1)
    redis.call('EXPIRE', P .. 'end:' .. id, 60)
end
"""

# Returns whether there is no such item, or not any more.
WITHDRAW = f"""{_ITEM}
local status = get('status')
if status and status ~= 'queued' then return 0 end
leave_sets()
release_key()
redis.call('DEL', item)
return 1
"""

# Gets the run's token, for how long it lives without a sign, and its limit. Returns the record.
CLAIM = f"""{_ITEM}
local status = get('status')
if status == 'running' and get('run') == ARGV[3] then return redis.call('HGETALL', item) end
if status ~= 'queued' or tonumber(get('due') or 0) > now then return false end
leave_sets()
put('status', 'running', 'run', ARGV[3], 'started', now)
redis.call('HINCRBY', item, 'attempt', 1)
redis.call('HDEL', item, 'due', 'progress', 'error', 'stopping', 'limit', 'resent')
if ARGV[5] ~= '' then put('limit', ARGV[5]) end
redis.call('ZADD', runs, now + ARGV[4], id)
local queued = tonumber(get('queued') or 0)
if queued > tonumber(redis.call('HGET', P .. home .. ':progress', queue) or 0) then
    redis.call('HSET', P .. home .. ':progress', queue, queued)
end
return redis.call('HGETALL', item)
"""

# The item is put off for 5 s, then 10, 20 ... and five minutes at last.
DEFER = f"""{_ITEM}
if get('status') ~= 'queued' then return end
local at = now + math.min(300, 5 * 2 ^ (redis.call('HINCRBY', item, 'deferred', 1) - 1))
leave_sets()
put('due', at)
redis.call('HDEL', item, 'resent')
redis.call('ZADD', due, at, id)
"""

# Gets the run's token, whether that is for the case that it shows no sign of life, for how long an ended
# item is kept, when the next run may start (none: the item has ended), and fields and values. An item whose
# run was cut has had its turn, so its next message goes before others; one that has failed waits again.
SETTLE = f"""{_ITEM}
if get('run') ~= ARGV[3] then return 0 end
if get('status') ~= 'running' then return 1 end
local is_lost = ARGV[4] == '1'
if is_lost and tonumber(redis.call('ZSCORE', runs, id) or 0) > now then return 0 end
put(unpack(ARGV, 7))
if ARGV[6] == '' then
    finish(ARGV[5])
else
    local at = math.max(now, ARGV[6])
    leave_sets()
    put('due', at)
    if not get('error') then put('resent', 0) end
    redis.call('ZADD', due, at, id)
end
if is_lost then redis.call('HDEL', item, 'run') end
return 1
"""

REPORT = f"""{_ITEM}
if get('run') == ARGV[3] and get('status') == 'running' then put('progress', ARGV[4]) end
"""

# Gets for how long an ended item is kept, and whether a running one is cancelled too.
CANCEL = f"""{_ITEM}
local status = get('status')
if status == 'queued' or (status == 'running' and ARGV[4] == '1') then
    put('status', 'cancelled')
    finish(ARGV[3])
    return 'cancelled'
end
if status == 'running' then
    put('cancel', 1)
    return 'asked'
end
return false
"""

# Gets P, for how long a run lives without a sign, whether it stops, and pairs of ids and tokens.
BEAT = f"""{_NOW}
local wanted = {{}}
for i = 4, #ARGV, 2 do
    local item = ARGV[1] .. 'item:' .. ARGV[i]
    local known = redis.call('HMGET', item, 'status', 'run', 'home', 'cancel')
    if known[1] == 'running' and known[2] == ARGV[i + 1] then
        redis.call('ZADD', ARGV[1] .. known[3] .. ':runs', now + ARGV[2], ARGV[i])
        if ARGV[3] == '1' then redis.call('HSET', item, 'stopping', 1) end
    end
    wanted[#wanted + 1] = known[4] and 1 or 0
end
return wanted
"""

# Gets P, HOME, who asks, for how many ms nobody else may, how many it takes at most, after how many seconds a
# message that was passed over counts as lost, the longest time between two looks, and how long looks have to
# follow each other without a longer one until runs count as dead. Returns the time, and unless another
# process has the lock: ids of what is due; ids and tokens of runs without a sign of life; the names of queues
# with old messages; and all queues with the progress there.
#
# All workers look, so that a gap says that Redis was away, or all of them: then no run could be seen to be
# alive. A single worker that is slow makes no gap.
LOOK = f"""{_NOW}
local home = ARGV[1] .. ARGV[2] .. ':'
local last = tonumber(redis.call('HGET', home .. 'looks', 'last') or 0)
if now - last > tonumber(ARGV[7]) or now < last then redis.call('HSET', home .. 'looks', 'since', now) end
redis.call('HSET', home .. 'looks', 'last', now)
local text = string.format('%.6f', now)
local other = redis.call('GET', home .. 'reconciler')
if other and other ~= ARGV[3] then return {{text}} end
redis.call('SET', home .. 'reconciler', ARGV[3], 'PX', ARGV[4])
local lost, old = {{}}, {{}}
if now - tonumber(redis.call('HGET', home .. 'looks', 'since')) >= tonumber(ARGV[8]) then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', home .. 'runs', '-inf', now, 'LIMIT', 0, ARGV[5])) do
        local run = redis.call('HGET', ARGV[1] .. 'item:' .. id, 'run')
        if run then
            lost[#lost + 1] = id
            lost[#lost + 1] = run
        else
            redis.call('ZREM', home .. 'runs', id)
        end
    end
end
for _, queue in ipairs(redis.call('SMEMBERS', home .. 'queues')) do
    local count = redis.call('ZCOUNT', home .. 'sent:' .. queue, '-inf', now - ARGV[6])
    if count > 0 then old[#old + 1] = queue end
end
local due = redis.call('ZRANGEBYSCORE', home .. 'due', '-inf', now, 'LIMIT', 0, ARGV[5])
return {{text, due, lost, old, redis.call('HGETALL', home .. 'progress')}}
"""

# Gets HOME, the name of the set in which the item was found, and names of fields. Returns nothing unless a
# message is to be sent, else whether it goes before others, and the fields' values. Where it does, the item
# stays in the set of what is due, for more messages in case this one is lost: after half a second, three
# times, then 1 s, 2, 4 ... at last 300.
SEND = f"""{_ITEM}
local was_there = redis.call('ZREM', P .. ARGV[3] .. ':' .. ARGV[4], id)
if was_there == 0 or get('status') ~= 'queued' then return false end
local fields = redis.call('HMGET', item, unpack(ARGV, 5))
if ARGV[4] == 'due' and not get('resent') then
    put('queued', now)
    redis.call('ZADD', sent, now, id)
    redis.call('SADD', P .. home .. ':queues', queue)
    return {{0, fields}}
end
local times = redis.call('HINCRBY', item, 'resent', 1)
redis.call('ZADD', due, now + math.max(0.5, math.min(300, 2 ^ (times - 4))), id)
return {{1, fields}}
"""
