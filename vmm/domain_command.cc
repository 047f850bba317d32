#include "vmm/domain_command.h"

#include <iostream>
#include <memory>
#include <utility>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "vmm/control/client.h"
#include "vmm/control/request.h"
#include "vmm/control/socket_place.h"
#include "vmm/files.h"
#include "vmm/libvirt/connection.h"
#include "vmm/libvirt/domain/document.h"
#include "vmm/libvirt/domain/domain_run.h"
#include "vmm/libvirt/domain/note.h"
#include "vmm/text.h"

ABSL_DECLARE_FLAG(std::optional<std::string>, connect);
ABSL_DECLARE_FLAG(std::optional<std::string>, guest);
ABSL_DECLARE_FLAG(std::optional<std::string>, socket);
ABSL_FLAG(std::optional<std::string>, domain, std::nullopt,
          "run the guest that a domain of libvirt's describes: a file as `virsh dumpxml` prints it, or - for standard "
          "input; with --connect, a domain's name or UUID (docs/libvirt.md)");
ABSL_FLAG(bool, check, false, "only say what of the domain a guest here would not have");

namespace quire {
namespace {

// A byte more than is taken, so that who takes it says what is wrong.
constexpr ByteCount kLongestFile = ByteCount::Bytes(DomainDocument::kLongest + 1);

template <typename... Args>
absl::Status Bad(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

absl::StatusOr<GivenDomain> ReadGiven(const std::string& from, std::string xml) {
  const absl::StatusOr<DomainDocument> document = DomainDocument::Parse(from, xml);
  if (!document.ok()) return document.status();
  absl::StatusOr<DomainReading> reading = ReadDomain(*document);
  if (!reading.ok()) return reading.status();
  return GivenDomain{.from = from, .xml = std::move(xml), .reading = *std::move(reading)};
}

// From standard input, as far as a domain can be long.
std::string ReadInput() {
  std::string text(DomainDocument::kLongest + 1, '\0');
  std::cin.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(std::cin.gcount()));
  return text;
}

// As it would be started next: what it is now has devices and places of one run in it.
absl::StatusOr<GivenDomain> ReadFromLibvirt(const std::string& uri, const std::string& domain) {
  const absl::StatusOr<std::unique_ptr<LibvirtConnection>> libvirt = OpenLibvirt(uri, LibvirtAccess::kReadOnly);
  if (!libvirt.ok()) return libvirt.status();
  const absl::StatusOr<DomainSummary> found = (*libvirt)->FindDomain(domain);
  if (absl::IsNotFound(found.status())) {
    return Bad("--connect=", uri, " has no domain ", domain, ": `virsh --connect=", uri, " list --all` lists them");
  }
  if (!found.ok()) return found.status();
  absl::StatusOr<std::string> xml = (*libvirt)->DomainXml(found->uuid, LibvirtConnection::XmlOf::kNextStart);
  if (!xml.ok()) return xml.status();
  return ReadGiven(uri, *std::move(xml));
}

absl::StatusOr<GivenDomain> ReadFromFile(const std::string& file) {
  if (file == "-") return ReadGiven("standard input", ReadInput());
  absl::StatusOr<std::string> xml = ReadWhole("domain", file, kLongestFile);
  return xml.ok() ? ReadGiven(file, *std::move(xml)) : xml.status();
}

std::string Described(const DomainGuest& guest) {
  std::string text = absl::StrCat(FormatSize(guest.memory), ", ", Plural(static_cast<uint64_t>(guest.vcpus), "vCPU"));
  if (!guest.pc.disks.empty()) absl::StrAppend(&text, ", ", Plural(guest.pc.disks.size(), "disk"));
  if (guest.pc.balloon > ByteCount()) absl::StrAppend(&text, ", a balloon of ", FormatSize(guest.pc.balloon));
  return text;
}

const std::vector<FlagGroup>& XmlFlags() {
  static const auto* groups = new std::vector<FlagGroup>{
      {"Which guest", {{"guest", "ID", "write a number such as 0, or a name such as guest-0"}}},
      {"Of which run", {{"socket", "PATH", "write the path of its control socket"}}}};
  return *groups;
}

}  // namespace

FlagGroup DomainFlags() {
  return {"A domain of libvirt's",
          {{"domain", "FILE|NAME", "write the path of a file with a domain's XML, or with --connect its name"},
           {"connect", "URI", "write the URI of a libvirt, such as qemu:///system"},
           {"check", "", "write --check", "true"}}};
}

absl::StatusOr<std::optional<GivenDomain>> DomainFromFlags() {
  const std::optional<std::string> domain = absl::GetFlag(FLAGS_domain), uri = absl::GetFlag(FLAGS_connect);
  if (!domain.has_value()) {
    if (uri.has_value()) return Bad("--connect=", *uri, " has no domain: name one with --domain=NAME");
    if (OnlyCheckDomain()) return Bad("--check is for a domain: name one with --domain=FILE");
    return std::nullopt;
  }
  absl::StatusOr<GivenDomain> given = uri.has_value() ? ReadFromLibvirt(*uri, *domain) : ReadFromFile(*domain);
  if (!given.ok()) return given.status();
  return *std::move(given);
}

bool OnlyCheckDomain() { return absl::GetFlag(FLAGS_check); }

absl::Status ShowDomain(const GivenDomain& domain, std::ostream& out) {
  const std::vector<DomainNote>& notes = domain.reading.notes;
  const size_t refused = CountRefused(notes);
  out << absl::StrCat("Domain ", domain.reading.guest.name, " of ", Printable(domain.from), ": ",
                      Described(domain.reading.guest), "; ", notes.size() - refused, " ignored, ", refused,
                      " refused.\n", NotesText(notes))
      << std::flush;
  if (refused == 0) return absl::OkStatus();
  return Bad("domain ", domain.reading.guest.name, " is not started, since its guest would not be what is described (",
             refused, " refused): change what is refused, or run it elsewhere");
}

absl::StatusOr<RunOptions> OptionsOf(const GivenDomain& domain, const std::set<std::string>& given) {
  return RunOptionsOf(domain.reading.guest, domain.xml, given);
}

std::string DomainXmlHelp() {
  return absl::StrCat(
      "Usage: quire domain-xml [--guest=ID] [flags]\n\n"
      "Prints a guest that is running, by `quire run` of the same user, as a domain of libvirt's: the description "
      "that\n"
      "it was started by, with how things are now in it (id, currentMemory, limits), and all that Quire does not know\n"
      "as it was; or, without one, a description of what it was started with. The first guest, unless one is "
      "named.\n\n",
      FlagsHelp(XmlFlags()),
      "Examples\n"
      "  quire domain-xml > guest.xml\n"
      "      the only guest of the only run\n"
      "  quire domain-xml --guest=web-1 --socket=/run/quire/4242.sock | virt-xml-validate - domain\n"
      "      one of several\n\n");
}

absl::Status DomainXmlCommand(absl::Span<const absl::string_view> args, Console& console) {
  if (absl::Status parsed = ParseFlags("quire domain-xml", args, XmlFlags()); !parsed.ok()) return parsed;
  const std::string guest = absl::GetFlag(FLAGS_guest).value_or("0");
  if (!IsGuestName(guest)) return Bad("--guest=", guest, " is no guest: write its number or name, such as guest-0");
  const absl::StatusOr<std::string> socket = ChooseSocket(absl::GetFlag(FLAGS_socket), RunningSockets());
  if (!socket.ok()) return socket.status();
  const absl::StatusOr<std::string> xml =
      AskRun(*socket, {.command = ControlRequest::Command::kGuestXml, .guest = guest});
  if (!xml.ok()) return xml.status();
  console.out << *xml << std::endl;
  return absl::OkStatus();
}

}  // namespace quire
