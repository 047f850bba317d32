#include "vmm/libvirt/libvirt_library.h"

#include <dlfcn.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/library_symbols.h"

namespace quire {
namespace {

constexpr char kFile[] = "libvirt.so.0";
constexpr char kAdvice[] = "install it to use libvirt's domains, in Debian by apt-get install libvirt0 (9.0 or newer)";

void FillForConnections(LibrarySymbols& symbols, LibvirtLibrary& libvirt) {
  symbols.Get("virInitialize", libvirt.initialize);
  symbols.Get("virSetErrorFunc", libvirt.set_error_func);
  symbols.Get("virGetLastError", libvirt.get_last_error);
  symbols.Get("virEventRegisterDefaultImpl", libvirt.event_register_default_impl);
  symbols.Get("virEventRunDefaultImpl", libvirt.event_run_default_impl);
  symbols.Get("virConnectOpenAuth", libvirt.connect_open_auth);
  symbols.Get("virConnectClose", libvirt.connect_close);
  symbols.Get("virConnectIsAlive", libvirt.connect_is_alive);
  symbols.Get("virConnectSetKeepAlive", libvirt.connect_set_keep_alive);
  symbols.Get("virConnectGetHostname", libvirt.connect_get_hostname);
  symbols.Get("virConnectGetURI", libvirt.connect_get_uri);
  symbols.Get("virConnectGetCapabilities", libvirt.connect_get_capabilities);
  symbols.Get("virConnectListAllDomains", libvirt.connect_list_all_domains);
  symbols.Get("virNodeGetInfo", libvirt.node_get_info);
  symbols.Get("virNodeGetMemoryStats", libvirt.node_get_memory_stats);
  symbols.Get("virNodeGetMemoryParameters", libvirt.node_get_memory_parameters);
  symbols.Get("virNodeSetMemoryParameters", libvirt.node_set_memory_parameters);
}

void FillForDomains(LibrarySymbols& symbols, LibvirtLibrary& libvirt) {
  symbols.Get("virDomainLookupByName", libvirt.domain_lookup_by_name);
  symbols.Get("virDomainLookupByUUIDString", libvirt.domain_lookup_by_uuid_string);
  symbols.Get("virDomainFree", libvirt.domain_free);
  symbols.Get("virDomainGetName", libvirt.domain_get_name);
  symbols.Get("virDomainGetUUIDString", libvirt.domain_get_uuid_string);
  symbols.Get("virDomainGetID", libvirt.domain_get_id);
  symbols.Get("virDomainGetState", libvirt.domain_get_state);
  symbols.Get("virDomainGetInfo", libvirt.domain_get_info);
  symbols.Get("virDomainGetXMLDesc", libvirt.domain_get_xml_desc);
  symbols.Get("virDomainMemoryStats", libvirt.domain_memory_stats);
  symbols.Get("virDomainSetMemoryStatsPeriod", libvirt.domain_set_memory_stats_period);
  symbols.Get("virDomainSetMemoryFlags", libvirt.domain_set_memory_flags);
  symbols.Get("virDomainGetMemoryParameters", libvirt.domain_get_memory_parameters);
  symbols.Get("virDomainSetMemoryParameters", libvirt.domain_set_memory_parameters);
  symbols.Get("virDomainDefineXMLFlags", libvirt.domain_define_xml_flags);
  symbols.Get("virDomainCreateXML", libvirt.domain_create_xml);
  symbols.Get("virDomainCreate", libvirt.domain_create);
  symbols.Get("virDomainResume", libvirt.domain_resume);
  symbols.Get("virDomainShutdown", libvirt.domain_shutdown);
  symbols.Get("virDomainDestroy", libvirt.domain_destroy);
  symbols.Get("virDomainUndefineFlags", libvirt.domain_undefine_flags);
}

// Libvirt's own way with errors is to print them; what they say is in the statuses.
void PrintNothing(void*, virErrorPtr) {}

absl::StatusOr<const LibvirtLibrary*> Load() {
  // Never closed: libraries that it brings along keep state of each thread.
  void* const library = dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("cannot load libvirt (", dlerror(), "): ", kAdvice));
  }
  static LibvirtLibrary libvirt = {};
  LibrarySymbols symbols(library);
  FillForConnections(symbols, libvirt);
  FillForDomains(symbols, libvirt);
  if (symbols.missing() != nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("this machine's ", kFile, " has no ", symbols.missing(), ": ", kAdvice));
  }
  if (libvirt.initialize() != 0) return absl::FailedPreconditionError("libvirt cannot be initialized (virInitialize)");
  libvirt.set_error_func(nullptr, PrintNothing);
  return &libvirt;
}

}  // namespace

absl::StatusOr<const LibvirtLibrary*> LoadLibvirtLibrary() {
  static const absl::StatusOr<const LibvirtLibrary*>& library = *new absl::StatusOr<const LibvirtLibrary*>(Load());
  return library;
}

}  // namespace quire
