// Sizes, numbers and sentences as people write and read them.
#ifndef QUIRE_VMM_TEXT_H_
#define QUIRE_VMM_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/units.h"

namespace quire {

// Parses "4096", "256M", "1.5G" or "512KiB": a decimal number and an optional unit K, M, G or T, a power of 1024, in
// either case and with an optional "iB". A fraction is taken if it gives a whole number of bytes. Nothing else is a
// size, "MB" included: it may mean either of two things.
std::optional<ByteCount> ParseSize(absl::string_view text);

// The shortest spelling that ParseSize reads back exactly: "256M", "1536M", "4097".
std::string SizeToFlag(ByteCount size);

// To be read, rounded to three digits or so: "256 MiB", "1.5 GiB", "640 KiB", "12 bytes".
std::string FormatSize(ByteCount size);

// With thousands separators: "1,234,567".
std::string FormatCount(uint64_t n);

// A rate or another large number in few letters: "812", "45.3k", "1.23M".
std::string FormatShort(double n);

// "1 guest", "4 guests".
std::string Plural(uint64_t n, absl::string_view noun);

// `text` with a full stop, unless it ends with one or with a question mark.
std::string Sentence(absl::string_view text);

// `text` with what ends a line or does something to a terminal shown, not done: "\n" as a backslash and an n.
std::string Printable(absl::string_view text);

// The candidate that `word` was probably meant to be (few typing errors away, or begun by it); empty if none is near.
std::string Nearest(absl::string_view word, const std::vector<std::string>& candidates);

// Breaks `text` at spaces into lines of at most `width` columns (longer words stand alone), each but the first after
// `indent` spaces. No line break at the end.
std::string Wrap(absl::string_view text, size_t width, size_t indent);

}  // namespace quire

#endif  // QUIRE_VMM_TEXT_H_
