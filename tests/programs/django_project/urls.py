from django.contrib import admin
from django.urls import path
from shop import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("place/<str:number>", views.place),
    path("buy/<str:number>", views.buy),
    path("announce/<str:number>", views.announce),
    path("process", views.process),
    path("live", views.live),
    path("events", views.events),
]
