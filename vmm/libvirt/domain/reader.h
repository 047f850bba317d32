// What the readers of a domain's parts have in common: notes, the first error, and tables of what becomes of elements.
#ifndef QUIRE_VMM_LIBVIRT_DOMAIN_READER_H_
#define QUIRE_VMM_LIBVIRT_DOMAIN_READER_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "pugixml.hpp"
#include "vmm/libvirt/domain/document.h"
#include "vmm/libvirt/domain/domain_guest.h"
#include "vmm/libvirt/domain/note.h"

namespace quire {

// Belongs to one thread. The first error is remembered; what is read after it means nothing.
class DomainReader {
 public:
  // What becomes of an element.
  enum class Fate : uint8_t { kKept, kIgnored, kRefused };
  struct Rule {
    absl::string_view name;
    Fate fate = Fate::kKept;
    absl::string_view why = "";  // of what is not kept
    void (*read)(DomainReader& reader,
                 pugi::xml_node node) = nullptr;  // of what is kept; null: there is nothing to read
  };
  // Of elements that no rule names.
  struct Otherwise {
    Fate fate;
    absl::string_view why;
  };

  explicit DomainReader(const DomainDocument& document) : document_(document) {}

  DomainGuest guest = {};
  // Between elements.
  bool has_serial_port = false;
  bool has_rng = false;
  bool has_balloon = false;
  std::optional<ByteCount> current_memory = {};

  // Applies rules to the elements in a node. What is read may be there once, unless it `may_repeat`.
  void ReadChildren(pugi::xml_node node, absl::Span<const Rule> rules, Otherwise otherwise, bool may_repeat = false);

  void Ignore(pugi::xml_node node, absl::string_view why) { Note(DomainNote::Kind::kIgnored, node, "", why); }
  void Ignore(pugi::xml_node node, const char* attribute, absl::string_view why);
  void Refuse(pugi::xml_node node, absl::string_view why) { Note(DomainNote::Kind::kRefused, node, "", why); }
  void Refuse(pugi::xml_node node, const char* attribute, absl::string_view why);
  // Ignores those attributes that are not among `known`.
  void IgnoreOtherAttributes(pugi::xml_node node, std::initializer_list<absl::string_view> known,
                             absl::string_view why);
  void Fail(pugi::xml_node node, absl::string_view sentence);

  // Values. What is wrong with one is an error, and the result then the default.
  std::string Text(pugi::xml_node node);
  ByteCount Size(pugi::xml_node node);
  // The attribute `key`, in the unit that `unit` names.
  ByteCount Size(pugi::xml_node node, const char* key, const char* unit);
  std::optional<uint32_t> Number(pugi::xml_node node, const char* key);
  bool Switch(pugi::xml_node node, const char* key, bool otherwise);
  std::string Word(pugi::xml_node node, const char* key) { return node.attribute(key).value(); }
  // An absolute path, which the guest needs; empty if it is refused.
  std::string Path(pugi::xml_node node, absl::string_view path);

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }
  // In the order of the document.
  std::vector<DomainNote> TakeNotes();

 private:
  void Note(DomainNote::Kind kind, pugi::xml_node node, absl::string_view attribute, absl::string_view why);
  void Apply(const Rule& rule, pugi::xml_node node, bool may_repeat);
  void Apply(Fate fate, absl::string_view why, pugi::xml_node node);

  const DomainDocument& document_;
  std::vector<std::pair<ptrdiff_t, DomainNote>> notes_;  // each with its element's place
  absl::Status status_;
};

// Elements that are understood, in files of their own.
void ReadOs(DomainReader& reader, pugi::xml_node os);
void ReadCpu(DomainReader& reader, pugi::xml_node cpu);
void ReadMemory(DomainReader& reader, pugi::xml_node memory);
void ReadCurrentMemory(DomainReader& reader, pugi::xml_node memory);
void ReadMemtune(DomainReader& reader, pugi::xml_node memtune);
void ReadMemoryBacking(DomainReader& reader, pugi::xml_node backing);
void ReadDevices(DomainReader& reader, pugi::xml_node devices);

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_DOMAIN_READER_H_
