#include "vmm/libvirt/domain/reader.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "vmm/libvirt/domain/scaled_size.h"

namespace quire {

void DomainReader::ReadChildren(pugi::xml_node node, absl::Span<const Rule> rules, Otherwise otherwise,
                                bool may_repeat) {
  for (const pugi::xml_node child : node.children()) {
    if (child.type() != pugi::node_element) continue;
    const auto rule = std::find_if(rules.begin(), rules.end(), [&](const Rule& r) { return r.name == child.name(); });
    if (rule != rules.end()) {
      Apply(*rule, child, may_repeat);
    } else {
      Apply(otherwise.fate, otherwise.why, child);
    }
    if (!ok()) return;
  }
}

void DomainReader::Apply(const Rule& rule, pugi::xml_node node, bool may_repeat) {
  if (rule.fate != Fate::kKept) return Apply(rule.fate, rule.why, node);
  if (rule.read == nullptr) return;
  if (!may_repeat && node.previous_sibling(node.name())) {
    return Fail(node, absl::StrCat("there is a second <", node.name(), ">: leave one of them out"));
  }
  rule.read(*this, node);
}

void DomainReader::Apply(Fate fate, absl::string_view why, pugi::xml_node node) {
  if (fate == Fate::kIgnored) Ignore(node, why);
  if (fate == Fate::kRefused) Refuse(node, why);
}

void DomainReader::Note(DomainNote::Kind kind, pugi::xml_node node, absl::string_view attribute,
                        absl::string_view why) {
  notes_.emplace_back(node.offset_debug(), DomainNote{.kind = kind,
                                                      .path = absl::StrCat(DomainDocument::PathOf(node),
                                                                           attribute.empty() ? "" : "/@", attribute),
                                                      .line = document_.LineOf(node),
                                                      .why = std::string(why)});
}

std::vector<DomainNote> DomainReader::TakeNotes() {
  std::stable_sort(notes_.begin(), notes_.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<DomainNote> notes;
  for (auto& [place, note] : notes_) notes.push_back(std::move(note));
  return notes;
}

void DomainReader::Ignore(pugi::xml_node node, const char* attribute, absl::string_view why) {
  if (node.attribute(attribute)) Note(DomainNote::Kind::kIgnored, node, attribute, why);
}

void DomainReader::Refuse(pugi::xml_node node, const char* attribute, absl::string_view why) {
  Note(DomainNote::Kind::kRefused, node, attribute, why);
}

void DomainReader::IgnoreOtherAttributes(pugi::xml_node node, std::initializer_list<absl::string_view> known,
                                         absl::string_view why) {
  for (const pugi::xml_attribute attribute : node.attributes()) {
    const absl::string_view name = attribute.name();
    if (name == "xmlns" || absl::StartsWith(name, "xmlns:")) continue;
    if (std::find(known.begin(), known.end(), name) == known.end()) Ignore(node, attribute.name(), why);
  }
}

void DomainReader::Fail(pugi::xml_node node, absl::string_view sentence) {
  if (status_.ok()) status_ = document_.Error(node, sentence);
}

std::string DomainReader::Text(pugi::xml_node node) {
  std::string text;
  for (const pugi::xml_node part : node.children()) {
    if (part.type() == pugi::node_pcdata || part.type() == pugi::node_cdata) text += part.value();
    if (part.type() == pugi::node_element) {
      Fail(part, absl::StrCat("<", node.name(), "> has the element <", part.name(), "> in it, and is text alone"));
    }
  }
  return text;
}

ByteCount DomainReader::Size(pugi::xml_node node) {
  const absl::StatusOr<ByteCount> size = ParseScaledSize(Text(node), node.attribute("unit").value());
  if (size.ok()) return *size;
  Fail(node, absl::StrCat("<", node.name(), ">: ", size.status().message()));
  return ByteCount();
}

ByteCount DomainReader::Size(pugi::xml_node node, const char* key, const char* unit) {
  const absl::StatusOr<ByteCount> size = ParseScaledSize(node.attribute(key).value(), node.attribute(unit).value());
  if (size.ok()) return *size;
  Fail(node, absl::StrCat("<", node.name(), " ", key, ">: ", size.status().message()));
  return ByteCount();
}

std::optional<uint32_t> DomainReader::Number(pugi::xml_node node, const char* key) {
  const pugi::xml_attribute attribute = node.attribute(key);
  if (!attribute) return std::nullopt;
  uint32_t number = 0;
  const absl::string_view text = attribute.value();
  if (!text.empty() && absl::ascii_isdigit(static_cast<unsigned char>(text[0])) && absl::SimpleAtoi(text, &number)) {
    return number;
  }
  Fail(node, absl::StrCat("<", node.name(), " ", key, "=\"", text, "\">: write a whole number"));
  return std::nullopt;
}

bool DomainReader::Switch(pugi::xml_node node, const char* key, bool otherwise) {
  const absl::string_view word = node.attribute(key).value();
  if (!node.attribute(key) || word == "on" || word == "off") return word.empty() ? otherwise : word == "on";
  Fail(node, absl::StrCat("<", node.name(), " ", key, "=\"", word, "\">: write on or off"));
  return otherwise;
}

std::string DomainReader::Path(pugi::xml_node node, absl::string_view path) {
  if (absl::StartsWith(path, "/")) return std::string(path);
  Refuse(node, path.empty() ? "it names no file"
                            : absl::StrCat("\"", path, "\" is no absolute path, as libvirt has them: begin it with /"));
  return "";
}

}  // namespace quire
