#include "vmm/libvirt/domain/document.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "vmm/libvirt/domain/xml_guard.h"
#include "vmm/text.h"

namespace quire {
namespace {

// Line ends stay as they are (no parse_eol): what stands for one as a character would come back as another.
constexpr unsigned kParse = pugi::parse_cdata | pugi::parse_comments | pugi::parse_pi | pugi::parse_declaration |
                            pugi::parse_escapes | pugi::parse_wconv_attribute | pugi::parse_ws_pcdata;

bool IsUtf8(absl::string_view encoding) {
  const std::string name = absl::AsciiStrToLower(encoding);
  return name.empty() || name == "utf-8" || name == "utf8" || name == "us-ascii" || name == "ascii";
}

// The next element in the order of the text. `depth` is the element's.
pugi::xml_node NextElement(pugi::xml_node node, int& depth) {
  const auto element = [](pugi::xml_node from) {
    while (from && from.type() != pugi::node_element) from = from.next_sibling();
    return from;
  };
  if (const pugi::xml_node child = element(node.first_child())) {
    ++depth;
    return child;
  }
  for (; depth > 0; node = node.parent(), --depth) {
    if (const pugi::xml_node next = element(node.next_sibling())) return next;
  }
  return {};
}

}  // namespace

absl::Status DomainError(absl::string_view file, int line, absl::string_view sentence) {
  const std::string place = line == 0 ? Printable(file) : absl::StrCat(Printable(file), ":", line);
  return absl::InvalidArgumentError(absl::StrCat(place, ": ", Printable(sentence)));
}

LineIndex::LineIndex(absl::string_view text) : begins_(1, 0) {
  for (size_t at = text.find('\n'); at != absl::string_view::npos; at = text.find('\n', at + 1)) {
    begins_.push_back(at + 1);
  }
}

int LineIndex::LineAt(size_t offset) const {
  return static_cast<int>(std::upper_bound(begins_.begin(), begins_.end(), offset) - begins_.begin());
}

absl::StatusOr<DomainDocument> DomainDocument::Parse(absl::string_view file, absl::string_view text) {
  if (text.size() > kLongest) {
    return DomainError(file, 0, absl::StrCat("the file has more than ", kLongest >> 20, " MiB, which no domain has"));
  }
  DomainDocument document(file, text);
  if (absl::Status status = document.Load(text); !status.ok()) return status;
  if (absl::Status status = document.CheckTop(); !status.ok()) return status;
  if (absl::Status status = document.CheckTree(); !status.ok()) return status;
  return document;
}

DomainDocument DomainDocument::Empty() {
  DomainDocument document("", "");
  document.document_->append_child("domain");
  return document;
}

absl::Status DomainDocument::Load(absl::string_view text) {
  if (const std::optional<XmlFault> fault = FindXmlFault(text)) {
    return DomainError(file_, lines_.LineAt(fault->offset), fault->sentence);
  }
  const pugi::xml_parse_result parsed = document_->load_buffer(text.data(), text.size(), kParse, pugi::encoding_utf8);
  if (parsed) return absl::OkStatus();
  std::string why = parsed.description();
  if (!why.empty()) why[0] = absl::ascii_tolower(static_cast<unsigned char>(why[0]));
  return DomainError(file_, lines_.LineAt(static_cast<size_t>(std::max<ptrdiff_t>(parsed.offset, 0))),
                     absl::StrCat("this is no XML: ", why));
}

absl::Status DomainDocument::CheckTop() const {
  const pugi::xml_node top = root();
  for (const pugi::xml_node node : document_->children()) {
    if (node.type() == pugi::node_element && node != top) return Error(node, "there is a second root element");
    if (node.type() != pugi::node_declaration) continue;
    const absl::string_view encoding = node.attribute("encoding").value();
    if (!IsUtf8(encoding)) {
      return Error(node, absl::StrCat("its encoding is ", encoding, ": convert the file to UTF-8, as by iconv"));
    }
  }
  if (absl::string_view(top.name()) != "domain") {
    return Error(top, absl::StrCat("this describes a <", top.name(), ">, not a <domain>: `virsh dumpxml` prints one"));
  }
  if (const std::string name = NamespaceOf(top); !name.empty()) {
    return Error(top, absl::StrCat("<domain> is in the namespace ", name, ": libvirt's is in none"));
  }
  return absl::OkStatus();
}

absl::Status DomainDocument::CheckTree() const {
  int depth = 0, elements = 0;
  for (pugi::xml_node node = root(); node; node = NextElement(node, depth)) {
    if (++elements > kMostElements)
      return Error(node, absl::StrCat("there are more than ", kMostElements, " elements"));
    if (depth >= kDeepest) return Error(node, absl::StrCat("elements are more than ", kDeepest, " deep in each other"));
    if (absl::Status status = CheckAttributes(node); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status DomainDocument::CheckAttributes(pugi::xml_node element) const {
  std::set<absl::string_view> names;
  for (const pugi::xml_attribute attribute : element.attributes()) {
    if (!names.insert(attribute.name()).second) {
      return Error(element, absl::StrCat("<", element.name(), "> has \"", attribute.name(), "\" twice"));
    }
    if (names.size() > kMostAttributes) {
      return Error(element, absl::StrCat("<", element.name(), "> has more than ", kMostAttributes, " attributes"));
    }
  }
  return absl::OkStatus();
}

int DomainDocument::LineOf(pugi::xml_node node) const {
  const ptrdiff_t offset = node.offset_debug();
  return offset < 0 || !node || file_.empty() ? 0 : lines_.LineAt(static_cast<size_t>(offset));
}

std::string DomainDocument::PathOf(pugi::xml_node node) {
  std::string path;
  for (; node && node.type() == pugi::node_element; node = node.parent()) {
    int number = 1;
    for (pugi::xml_node before = node.previous_sibling(node.name()); before;
         before = before.previous_sibling(node.name())) {
      ++number;
    }
    const bool alone = number == 1 && !node.next_sibling(node.name());
    path = absl::StrCat("/", node.name(), alone ? "" : absl::StrCat("[", number, "]"), path);
  }
  return path;
}

std::string DomainDocument::NamespaceOf(pugi::xml_node node) {
  const absl::string_view name = node.name();
  const size_t colon = name.find(':');
  const std::string declaration =
      colon == absl::string_view::npos ? "xmlns" : absl::StrCat("xmlns:", name.substr(0, colon));
  for (; node; node = node.parent()) {
    if (const pugi::xml_attribute attribute = node.attribute(declaration.c_str())) return attribute.value();
  }
  return "";
}

absl::Status DomainDocument::Error(pugi::xml_node node, absl::string_view sentence) const {
  return DomainError(file_, LineOf(node), sentence);
}

std::string DomainDocument::ToXml() const { return Print(pugi::format_raw); }

std::string DomainDocument::ToIndentedXml() const { return Print(pugi::format_indent); }

std::string DomainDocument::Print(unsigned flags) const {
  std::ostringstream text;
  for (const pugi::xml_node node : document_->children()) {
    node.print(text, "  ", flags | pugi::format_no_declaration | pugi::format_attribute_single_quote,
               pugi::encoding_utf8);
    if ((flags & pugi::format_indent) == 0) text << "\n";
  }
  return text.str();
}

}  // namespace quire
