// A domain of libvirt's, as XML: read from bytes that may be hostile, and written back with all that nobody here
// understands as it was.
//
// What XML allows and a domain has no use for is refused before the parser sees it: document types, and with them
// entities of one's own; other encodings than UTF-8; depth, attributes and elements without end.
#ifndef QUIRE_VMM_LIBVIRT_DOMAIN_DOCUMENT_H_
#define QUIRE_VMM_LIBVIRT_DOMAIN_DOCUMENT_H_

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "pugixml.hpp"

namespace quire {

// "FILE:LINE: sentence", InvalidArgument; without a line if that is 0. What cannot be printed in one of both is
// escaped.
absl::Status DomainError(absl::string_view file, int line, absl::string_view sentence);

// The lines of a text, by the places of its bytes.
class LineIndex {
 public:
  explicit LineIndex(absl::string_view text);
  // From 1. What lies beyond the end is of the last line.
  int LineAt(size_t offset) const;

 private:
  std::vector<size_t> begins_;  // ascending
};

// Belongs to one thread. Can be moved; nodes stay valid.
class DomainDocument {
 public:
  static constexpr size_t kLongest = 4 << 20;  // bytes: as much as libvirt sends of one (REMOTE_STRING_MAX)
  static constexpr int kDeepest = 64;          // elements in each other; libvirt's own take eight
  static constexpr int kMostElements = 10'000;
  static constexpr int kMostAttributes = 64;  // of one element

  // `file` is for messages. Errors: DomainError.
  static absl::StatusOr<DomainDocument> Parse(absl::string_view file, absl::string_view text);
  // <domain>, and nothing in it.
  static DomainDocument Empty();

  // The element <domain>.
  pugi::xml_node root() const { return document_->document_element(); }
  const std::string& file() const { return file_; }

  // 0: the element was not in the file.
  int LineOf(pugi::xml_node node) const;
  // As XPath has it: "/domain/devices/disk[2]". Takes as long as the element has siblings before it.
  static std::string PathOf(pugi::xml_node node);
  // The namespace of an element, empty if it is in none, as libvirt's own are.
  static std::string NamespaceOf(pugi::xml_node node);
  // A DomainError about an element.
  absl::Status Error(pugi::xml_node node, absl::string_view sentence) const;

  // As it came, byte for byte but for spaces in tags, and how values are quoted and characters escaped.
  std::string ToXml() const;
  // With a line for each element, as libvirt prints its own: for one that was made here.
  std::string ToIndentedXml() const;

 private:
  DomainDocument(absl::string_view file, absl::string_view text)
      : file_(file), lines_(text), document_(std::make_unique<pugi::xml_document>()) {}

  absl::Status Load(absl::string_view text);
  absl::Status CheckTop() const;
  absl::Status CheckTree() const;
  absl::Status CheckAttributes(pugi::xml_node element) const;
  std::string Print(unsigned flags) const;

  std::string file_;
  LineIndex lines_;
  std::unique_ptr<pugi::xml_document> document_;
};

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_DOMAIN_DOCUMENT_H_
