# Objects, hashes, strings and closures that come and go.
Item = Struct.new(:name, :tags, :parent)
scale = Integer(ARGV[0])
total = 0
(1..[scale / 6, 1].max).each do |round|
  state = round
  items = []
  9000.times do |index|
    state = (state * 1103515245 + 12345) & 0x7fffffff
    tags = (state % 5).times.map { |n| "a tag that is longer than a slot #{state % 97 + n}" }
    items << Item.new("item number #{index} of the round #{round}", tags, items[state % (index + 1)])
  end
  by_tag = Hash.new { |hash, key| hash[key] = [] }
  items.each { |item| item.tags.each { |tag| by_tag[tag] << item } }
  lines = by_tag.map { |tag, list| "#{tag}: #{list.map(&:name).join(', ')}" }
  text = lines.join("\n").gsub(/number (\d+)/) { "<#{$1}>" }
  total += text.length + items.count { |item| item.parent && item.parent.tags.size > 2 }
end
puts total
