-- Tables, strings, closures, coroutines; nothing depends on pairs' order.
local seed = 11
local part = tonumber(os.getenv("WORK_PART") or 1)
local function number(limit)
  seed = (seed * 1103515245 + 12345) % 2147483648
  return seed // 16 % limit
end
local words, objects = {}, {}
for i = 1, 40000 // part do
  local word = string.rep(string.char(97 + number(26)), 1 + number(12)) .. number(500)
  words[word] = (words[word] or 0) + i
  objects[number(3000) + 1] = { id = i, word = word, data = { i, tostring(i) } }
end
local keys = {}
for word in pairs(words) do keys[#keys + 1] = word end
table.sort(keys)
print(#keys, keys[1], keys[#keys], words[keys[#keys // 2]])
local text = table.concat(keys, " ")
local changed, hits = text:gsub("(%a+)(%d+)", "%2%1")
print(hits, #changed, changed:sub(1, 60))
local function tree(depth) if depth > 0 then return { tree(depth - 1), tree(depth - 1) } end end
local function size(node) return node and 1 + size(node[1]) + size(node[2]) or 0 end
for _ = 1, 3 do print(size(tree(part == 1 and 13 or 8))) end
local producers = {}
for i = 1, 500 // part do
  producers[i] = coroutine.wrap(function() for j = 1, 20 do coroutine.yield(("%d-%d"):format(i, j)) end end)
end
local length = 0
for _ = 1, 20 do for i = 1, 500 // part do length = length + #producers[i]() end end
print(length)
local buffer = ""
for i = 1, 600 do buffer = buffer .. string.rep("x", i) end
print(#buffer)
objects, words = nil, nil
collectgarbage()
local out = assert(io.open("lua.out", "w"))
for i = 1, #keys, 7 do out:write(keys[i], "\n") end
out:close()
io.stderr:write("lua said so on stderr\n")
os.exit(6)
