// What of XML is let through to the parser, which is lenient and expands nothing.
#ifndef QUIRE_VMM_LIBVIRT_DOMAIN_XML_GUARD_H_
#define QUIRE_VMM_LIBVIRT_DOMAIN_XML_GUARD_H_

#include <cstddef>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace quire {

struct XmlFault {
  size_t offset;         // in the text, of what is wrong
  std::string sentence;  // without a full stop
};

// The first thing in `text`, any bytes, that makes it no XML 1.0 in UTF-8 as a domain may have: a character that XML
// does not have, a document type, a reference to anything but characters and the five entities that XML has itself, a
// "<" in a value, or text outside of the root. What it leaves to the parser is whether tags are well formed and fit
// together. Nothing: there is no such thing.
std::optional<XmlFault> FindXmlFault(absl::string_view text);

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_DOMAIN_XML_GUARD_H_
