// What a guest reports about itself over its console: lines of "quire: key=value ...".
#ifndef QUIRE_VMM_CONSOLE_REPORT_H_
#define QUIRE_VMM_CONSOLE_REPORT_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "absl/strings/string_view.h"

namespace quire {

// Reads a console as it comes and keeps the latest value of each key. A report begins with the last "quire: " of a
// line, so that what else is written to the console may share the line before it. Words that are not key=value are not
// for this reader. A value ends at a space; that of "why" at the end of its line. A line counts when it has ended, with
// LF or CR.
//
//   quire: boot=ok cpus=2             boot: "ok", cpus: "2"
//   quire: result=failed why=too big  result: "failed", why: "too big"
//
// The bytes are a guest's, and so anything. What is kept is bounded by the constants here and is printable ASCII:
// another byte becomes '?', a tab a space. Not thread safe.
class ConsoleReport {
 public:
  // Of a line that is longer nothing is taken: its values may be cut off.
  static constexpr size_t kLongestLine = 1024;
  // Values with longer or more keys are dropped, and counted.
  static constexpr size_t kLongestKey = 32;
  static constexpr size_t kMostKeys = 64;
  static constexpr size_t kLongestValue = 256;

  // The next bytes of the console, in pieces of any size.
  void Add(absl::string_view bytes);

  // By key. Keys are of [a-z0-9_].
  const std::map<std::string, std::string>& values() const { return values_; }

  // The latest value of a key; empty if there is none.
  absl::string_view Get(absl::string_view key) const;

  // What it has done so far, if it says so: the value of "operations". Else 0.
  uint64_t operations() const;

  // How many values were dropped because of the bounds above, lines too long counting as one each.
  size_t dropped() const { return dropped_; }

 private:
  void EndLine();
  void AddWords(absl::string_view words);
  void Set(absl::string_view key, absl::string_view value);

  std::string line_;  // unfinished; at most one byte longer than kLongestLine
  std::map<std::string, std::string> values_;
  size_t dropped_ = 0;
};

}  // namespace quire

#endif  // QUIRE_VMM_CONSOLE_REPORT_H_
