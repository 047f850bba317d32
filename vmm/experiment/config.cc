#include "vmm/experiment/config.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "vmm/text.h"

#define TOML_EXCEPTIONS 0
// Arrays and tables in each other; each of those may have keys with dots, kMostDots of them.
#define TOML_MAX_NESTED_VALUES 32
#include <toml++/toml.h>

namespace quire {
namespace {

using Json = nlohmann::json;

std::string Shown(absl::string_view text) {
  constexpr size_t kLongest = 40;
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, kLongest)), text.size() > kLongest ? "..." : "", "\"");
}

int LineOf(const toml::node& node) { return static_cast<int>(node.source().begin.line); }

Json ScalarOf(const toml::node& node) {
  if (const auto* s = node.as_string()) return s->get();
  if (const auto* b = node.as_boolean()) return b->get();
  if (const auto* i = node.as_integer()) return i->get();
  if (const auto* f = node.as_floating_point()) return f->get();
  std::ostringstream text;
  if (const auto* d = node.as_date()) text << d->get();
  if (const auto* t = node.as_time()) text << t->get();
  if (const auto* d = node.as_date_time()) text << d->get();
  return text.str();
}

// Each dot of a key is a table in a table. toml++ and what is here go down into those by functions that call
// themselves: a file of nothing but dots would use up the stack.
constexpr int kMostDots = 200;  // in a line

absl::Status CheckDepth(absl::string_view file, absl::string_view text) {
  int line = 1, dots = 0;
  for (const char c : text) {
    if (c == '.' && ++dots > kMostDots) {
      return ConfigError(file, line, absl::StrCat("this line has more than ", kMostDots, " dots: break it"));
    }
    if (c != '\n') continue;
    ++line;
    dots = 0;
  }
  return absl::OkStatus();
}

// What ends a line or does something to a terminal is shown, not done.
std::string Printable(absl::string_view text) {
  std::string printable;
  for (const char& c : text) {
    const bool control = static_cast<unsigned char>(c) < ' ' || c == '\x7f';
    absl::StrAppend(&printable, control ? absl::CHexEscape(absl::string_view(&c, 1)) : std::string(1, c));
  }
  return printable;
}

// At most as deep as the dots of all lines around a value, and TOML_MAX_NESTED_VALUES.
ConfigNode Convert(const toml::node& from) {
  ConfigNode node{.line = LineOf(from)};
  if (const toml::array* array = from.as_array()) {
    node.kind = ConfigNode::Kind::kArray;
    for (const toml::node& element : *array) node.array.push_back(Convert(element));
  } else if (const toml::table* table = from.as_table()) {
    node.kind = ConfigNode::Kind::kTable;
    for (const auto& [key, value] : *table) {
      node.table.emplace_back(std::string(key.str()), Convert(value));
      // A table that a dotted key made has no place of its own.
      if (node.table.back().second.line == 0) node.table.back().second.line = static_cast<int>(key.source().begin.line);
    }
    std::stable_sort(node.table.begin(), node.table.end(),
                     [](const auto& a, const auto& b) { return a.second.line < b.second.line; });
  } else {
    node.scalar = ScalarOf(from);
  }
  return node;
}

}  // namespace

const ConfigNode* ConfigNode::Find(absl::string_view key) const {
  for (const auto& [name, node] : table) {
    if (name == key) return &node;
  }
  return nullptr;
}

ConfigNode* ConfigNode::Find(absl::string_view key) {
  return const_cast<ConfigNode*>(static_cast<const ConfigNode*>(this)->Find(key));
}

Json ConfigNode::ToJson() const {
  if (kind == Kind::kScalar) return scalar;
  Json json = kind == Kind::kArray ? Json::array() : Json::object();
  for (const ConfigNode& element : array) json.push_back(element.ToJson());
  for (const auto& [key, value] : table) json[key] = value.ToJson();
  return json;
}

absl::Status ConfigError(absl::string_view file, int line, absl::string_view sentence) {
  return absl::InvalidArgumentError(absl::StrCat(Printable(file), ":", line, ": ", Printable(sentence)));
}

absl::StatusOr<ConfigNode> ParseToml(absl::string_view file, absl::string_view text) {
  if (absl::Status status = CheckDepth(file, text); !status.ok()) return status;
  const toml::parse_result parsed = toml::parse(std::string_view(text.data(), text.size()));
  if (parsed) return Convert(parsed.table());
  const toml::parse_error& error = parsed.error();
  return ConfigError(file, static_cast<int>(error.source().begin.line),
                     absl::StrCat("this is no TOML: ", std::string(error.description())));
}

void Override(const ConfigNode& changes, ConfigNode& into) {
  if (changes.kind != ConfigNode::Kind::kTable || into.kind != ConfigNode::Kind::kTable) {
    into = changes;
    return;
  }
  for (const auto& [key, value] : changes.table) {
    if (ConfigNode* const there = into.Find(key); there != nullptr) {
      Override(value, *there);
    } else {
      into.table.emplace_back(key, value);
    }
  }
}

void SetAt(absl::string_view path, const ConfigNode& value, ConfigNode& root) {
  ConfigNode* node = &root;
  const std::vector<absl::string_view> keys = absl::StrSplit(path, '.');
  for (size_t i = 0; i < keys.size(); ++i) {
    if (node->Find(keys[i]) == nullptr) {
      node->table.emplace_back(std::string(keys[i]), ConfigNode{.kind = ConfigNode::Kind::kTable, .line = value.line});
    }
    node = node->Find(keys[i]);
    if (i + 1 == keys.size()) {
      *node = value;
    } else if (node->kind != ConfigNode::Kind::kTable) {
      *node = ConfigNode{.kind = ConfigNode::Kind::kTable, .line = value.line};
    }
  }
}

const ConfigNode* ConfigReader::Note(absl::string_view key) {
  known_.push_back(std::string(key));
  return table_.Find(key);
}

void ConfigReader::Fail(absl::string_view key, absl::string_view sentence) {
  if (!status_.ok()) return;
  const ConfigNode* const node = table_.Find(key);
  status_ = ConfigError(file_, node == nullptr ? table_.line : node->line, sentence);
}

void ConfigReader::FailKind(absl::string_view key, absl::string_view wanted) {
  Fail(key, absl::StrCat(key, " in ", where_, " is to be ", wanted));
}

void ConfigReader::FailChoice(absl::string_view key, absl::string_view word, const std::vector<std::string>& choices) {
  Fail(key, absl::StrCat(key, " in ", where_, " cannot be ", Shown(word), ": write ",
                         absl::StrJoin(choices, ", ", [](std::string* out, const std::string& choice) {
                           absl::StrAppend(out, "\"", choice, "\"");
                         })));
}

void ConfigReader::Read(absl::string_view key, std::string& value) {
  std::optional<std::string> read;
  Read(key, read);
  if (read.has_value()) value = *std::move(read);
}

void ConfigReader::Read(absl::string_view key, std::optional<std::string>& value) {
  const ConfigNode* const node = Note(key);
  if (node == nullptr) return;
  if (!node->scalar.is_string()) return FailKind(key, "text between quotes");
  value = node->scalar.get<std::string>();
}

void ConfigReader::Read(absl::string_view key, bool& value) {
  const ConfigNode* const node = Note(key);
  if (node == nullptr) return;
  if (!node->scalar.is_boolean()) return FailKind(key, "true or false");
  value = node->scalar.get<bool>();
}

void ConfigReader::ReadWhole(absl::string_view key, int64_t least, int64_t most, int64_t& value) {
  const ConfigNode* const node = Note(key);
  if (node == nullptr) return;
  const std::string wanted = absl::StrCat("a whole number from ", least, " to ", most);
  if (!node->scalar.is_number_integer()) return FailKind(key, wanted);
  const int64_t number = node->scalar.get<int64_t>();
  if (number < least || number > most) return FailKind(key, absl::StrCat(wanted, ", and ", number, " is none"));
  value = number;
}

void ConfigReader::ReadNumber(absl::string_view key, double least, double most, double& value) {
  const ConfigNode* const node = Note(key);
  if (node == nullptr) return;
  const std::string wanted = absl::StrCat("a number from ", least, " to ", most);
  if (!node->scalar.is_number()) return FailKind(key, wanted);
  const double number = node->scalar.get<double>();
  if (!(number >= least && number <= most)) return FailKind(key, absl::StrCat(wanted, ", and ", number, " is none"));
  value = number;
}

void ConfigReader::ReadSize(absl::string_view key, std::optional<ByteCount>& value) {
  const ConfigNode* const node = Note(key);
  if (node == nullptr) return;
  if (node->scalar.is_number_integer() && node->scalar.get<int64_t>() >= 0) {
    value = ByteCount::Bytes(static_cast<uint64_t>(node->scalar.get<int64_t>()));
    return;
  }
  const std::optional<ByteCount> size =
      node->scalar.is_string() ? ParseSize(node->scalar.get<std::string>()) : std::nullopt;
  if (!size.has_value()) return FailKind(key, "a size such as \"256M\" or \"1.5G\"");
  value = size;
}

void ConfigReader::ReadStrings(absl::string_view key, std::vector<std::string>& values) {
  const ConfigNode* const node = Note(key);
  if (node == nullptr) return;
  std::vector<std::string> read;
  if (node->scalar.is_string()) read.push_back(node->scalar.get<std::string>());
  for (const ConfigNode& element : node->array) {
    if (!element.scalar.is_string()) return FailKind(key, "an array of texts between quotes");
    read.push_back(element.scalar.get<std::string>());
  }
  if (node->kind == ConfigNode::Kind::kTable || (node->kind == ConfigNode::Kind::kScalar && read.empty())) {
    return FailKind(key, "text between quotes, or an array of such");
  }
  values = std::move(read);
}

const ConfigNode* ConfigReader::Table(absl::string_view key) {
  const ConfigNode* const node = Note(key);
  if (node == nullptr || node->kind == ConfigNode::Kind::kTable) return node;
  FailKind(key, absl::StrCat("a table: write [", key, "] and its keys below"));
  return nullptr;
}

const ConfigNode* ConfigReader::Tables(absl::string_view key) {
  const ConfigNode* const node = Note(key);
  if (node == nullptr) return nullptr;
  const bool tables = node->kind == ConfigNode::Kind::kArray &&
                      std::all_of(node->array.begin(), node->array.end(),
                                  [](const ConfigNode& e) { return e.kind == ConfigNode::Kind::kTable; });
  if (tables) return node;
  FailKind(key, absl::StrCat("an array of tables: write [[", key, "]] before the keys of each"));
  return nullptr;
}

absl::Status ConfigReader::Finish() {
  for (const auto& [key, node] : table_.table) {
    if (!status_.ok()) break;
    if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
    const std::string nearest = Nearest(key, known_);
    Fail(key, absl::StrCat(Shown(key), " is no key of ", where_, ": ",
                           nearest.empty() ? absl::StrCat("there are ", absl::StrJoin(known_, ", "))
                                           : absl::StrCat("\"", nearest, "\" may be meant")));
  }
  return status_;
}

}  // namespace quire
