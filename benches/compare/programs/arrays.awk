# Arrays of arrays and of strings: records that are made, linked and dropped.
function note(list, key, text,    count) {
    count = ++list[key]["count"]
    list[key]["notes"][count] = text
    return count
}
BEGIN {
    state = 7
    for (round = 1; round <= rounds; round++) {
        delete people
        for (i = 1; i <= 6000; i++) {
            state = (state * 69069 + 12345) % 4294967296
            id = "id" (state % 1500)
            note(people, id, sprintf("%s-%d-%x", id, i, state))
            if (state % 3 == 0) people[id]["friends"]["id" (state % 911)] = i
            if (state % 11 == 0) delete people["id" (state % 700)]
        }
        for (id in people) {
            if (!isarray(people[id]["friends"])) continue
            for (friend in people[id]["friends"])
                if (friend in people) total += people[friend]["count"]
        }
        for (id in people) {
            text = ""
            for (n in people[id]["notes"]) text = text " " people[id]["notes"][n]
            length_of[length(text) % 50] += gsub(/-/, "+", text)
        }
    }
    for (n in length_of) total += length_of[n]
    print total
}
