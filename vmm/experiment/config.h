// A TOML file as a tree that remembers its lines, and a reader of its tables that leaves no key unread.
#ifndef QUIRE_VMM_EXPERIMENT_CONFIG_H_
#define QUIRE_VMM_EXPERIMENT_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/units.h"
#include "nlohmann/json.hpp"

namespace quire {

struct ConfigNode {
  enum class Kind : uint8_t { kScalar, kArray, kTable };
  Kind kind = Kind::kScalar;
  int line = 0;                // in the file, from 1
  nlohmann::json scalar = {};  // a string, a boolean, a whole number or a fraction; a date is a string
  std::vector<ConfigNode> array = {};
  std::vector<std::pair<std::string, ConfigNode>> table = {};  // by line

  // Null: there is no such key.
  const ConfigNode* Find(absl::string_view key) const;
  ConfigNode* Find(absl::string_view key);
  // Without lines.
  nlohmann::json ToJson() const;
};

// "FILE:LINE: sentence", InvalidArgument. What cannot be printed in one of both is escaped.
absl::Status ConfigError(absl::string_view file, int line, absl::string_view sentence);

// Reads TOML 1.0, any bytes, with some depth at most. `file` is for messages. Errors: ConfigError.
absl::StatusOr<ConfigNode> ParseToml(absl::string_view file, absl::string_view text);

// What of `changes` is a table counts for the table's keys; anything else takes the place of what stood there.
void Override(const ConfigNode& changes, ConfigNode& into);

// Puts `value` where `path`, keys with dots between them, leads from `root`; tables on the way are made.
void SetAt(absl::string_view path, const ConfigNode& value, ConfigNode& root);

// Reads a table key by key. The first thing that is wrong is remembered, and everything after it has no effect.
class ConfigReader {
 public:
  // `where` names the table for people: "[run]". Both outlive the reader.
  ConfigReader(absl::string_view file, absl::string_view where, const ConfigNode& table)
      : file_(file), where_(where), table_(table) {}

  // Each leaves `value` alone where the key is missing.
  void Read(absl::string_view key, std::string& value);
  void Read(absl::string_view key, std::optional<std::string>& value);
  void Read(absl::string_view key, bool& value);
  void ReadWhole(absl::string_view key, int64_t least, int64_t most, int64_t& value);
  void ReadNumber(absl::string_view key, double least, double most, double& value);
  // "256M", or a whole number of bytes.
  void ReadSize(absl::string_view key, std::optional<ByteCount>& value);
  // A string or an array of them.
  void ReadStrings(absl::string_view key, std::vector<std::string>& values);
  // One of several words.
  template <class Enum>
  void ReadEnum(absl::string_view key, std::initializer_list<Enum> choices, Enum& value) {
    std::string word = std::string(Name(value));
    Read(key, word);
    std::vector<std::string> names;
    for (const Enum choice : choices) {
      names.push_back(std::string(Name(choice)));
      if (Name(choice) == word) value = choice;
    }
    if (status_.ok() && Name(value) != word) FailChoice(key, word, names);
  }
  // A table or an array of tables, to be read by others. Null: it is missing.
  const ConfigNode* Table(absl::string_view key);
  const ConfigNode* Tables(absl::string_view key);
  // A key that others have read.
  const ConfigNode* Note(absl::string_view key);

  // Something is wrong with a key, or, if it is missing, with the table.
  void Fail(absl::string_view key, absl::string_view sentence);
  bool ok() const { return status_.ok(); }
  // What was wrong first; or a key that nobody has asked for.
  absl::Status Finish();

 private:
  void FailChoice(absl::string_view key, absl::string_view word, const std::vector<std::string>& choices);
  void FailKind(absl::string_view key, absl::string_view wanted);

  const absl::string_view file_, where_;
  const ConfigNode& table_;
  std::vector<std::string> known_;
  absl::Status status_;
};

}  // namespace quire

#endif  // QUIRE_VMM_EXPERIMENT_CONFIG_H_
